"""The pack, loaded the way ComfyUI loads it: ids, inputs and their order are public."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfyui_version
import pytest
from comfy_execution.caching import CacheKeySetInputSignature
from comfy_execution.graph import DynamicPrompt

import nodes as comfy_nodes

REPO = Path(__file__).resolve().parents[2]
INPUTS = {
    "VDiTToyWorld": "variant",
    "VDiTToyClip": "prompt, seed",
    "VDiTCapture": "model, layers, heads, steps, branch, map_size, sinks, structure, sparsity, "
    "tau, rate, frames, record, text, sensitivity, temperatures, energy, words",
    "VDiTAttentionMap": "record, latent, layer, head, step, branch, scale",
    "VDiTStatistics": "record, latent, statistic, step, branch",
    "VDiTMergeRecords": "record, latent, record_2, latent_2",
    "VDiTDetectSinks": "record, latent, weight, coverage, frequency, view, steps, branch",
    "VDiTRandomHeads": "model, heads, over, seed",
    "VDiTStructure": "record, latent, view, layer, head, step, branch, images, other, other_latent",
    "VDiTTextAttention": "record, latent, layer, tokens, step, branch, clip, text",
    "VDiTEntropyPlot": "record, latent, quantity, share, granularity, steps, branch",
    "VDiTTokenHeatmap": "record, latent, frames, words, layers, step, branch, opacity, threshold, "
    "clip, text",
    "VDiTSaveRecord": "record, latent, filename_prefix",
    "VDiTLoadRecord": "file",
    "VDiTTemperature": "model, temperature, layers, heads, start_percent, end_percent, branch, "
    "region, schedule",
    "VDiTPairPrompts": "source, target",
    "VDiTPairLatent": "latent",
    "VDiTTransfer": "model, layers, heads, strength, region, start_percent, end_percent, branch",
    "VDiTSplitPair": "latent",
    "VDiTVideoSource": "model, video, layers, heads, strength, schedule, region, start_percent, "
    "end_percent, branch, mask, hold_background",
    "VDiTRecordSource": "model, layers, heads, dtype, place, filename_prefix, start_percent, "
    "end_percent, branch",
    "VDiTLoadSource": "folder",
    "VDiTReplaySource": "model, source, layers, heads, strength, region, start_percent, "
    "end_percent, branch, latent",
    "VDiTFreezeHeads": "model, pivot_step, layers, heads, strength, region, end_percent, branch",
    "VDiTEntropyEnhance": "model, share, strength, mode, selection, granularity, region, "
    "start_percent, end_percent, branch, record, latent, first_steps",
    "VDiTEntropyTransfer": "model, share, which, strength, selection, granularity, region, "
    "start_percent, end_percent, branch, record, latent, first_steps",
    "VDiTSkipHeads": "model, heads, start_percent, end_percent, branch, region",
    "VDiTPerturb": "model, map, strength, layers, heads, start_percent, end_percent, branch, "
    "region",
    "VDiTSparsity": "model, sparsity, layers, heads, mode, renormalize, schedule, start_percent, "
    "end_percent, branch, block_size, reuse_steps, region",
    "VDiTCompareVideos": "a, b, clip_vision, lpips, clip, prompt",
    "VDiTSensitivity": "record, latent, target, rate, limit, mass_lost, steps, branch, sweep",
    "VDiTLayerSweep": "model, layers, operation, baseline, resume, folder",
    "VDiTSweepReport": "videos, labels, measure, spare, value, spared_value, reference, source, "
    "clip_vision, lpips, clip, prompt",
}
OUTPUTS = {
    "VDiTToyWorld": "MODEL, CLIP, VAE",
    "VDiTToyClip": "IMAGE, MASK",
    "VDiTCapture": "MODEL, VDIT_RECORD",
    "VDiTAttentionMap": "IMAGE",
    "VDiTStatistics": "IMAGE, STRING, STRING",
    "VDiTMergeRecords": "VDIT_RECORD",
    "VDiTDetectSinks": "VDIT_HEADS, STRING, IMAGE, STRING, STRING",
    "VDiTRandomHeads": "VDIT_HEADS, STRING",
    "VDiTStructure": "IMAGE, STRING, STRING",
    "VDiTTextAttention": "IMAGE, STRING, STRING",
    "VDiTEntropyPlot": "IMAGE, STRING, VDIT_HEADS, STRING, VDIT_HEADS, STRING, STRING, STRING, "
    "STRING",
    "VDiTTokenHeatmap": "IMAGE, MASK, MASK, IMAGE, STRING, STRING",
    "VDiTSaveRecord": "",
    "VDiTLoadRecord": "VDIT_RECORD",
    "VDiTTemperature": "MODEL",
    "VDiTPairPrompts": "CONDITIONING",
    "VDiTPairLatent": "LATENT",
    "VDiTTransfer": "MODEL",
    "VDiTSplitPair": "LATENT, LATENT",
    "VDiTVideoSource": "MODEL, LATENT",
    "VDiTRecordSource": "MODEL, VDIT_SOURCE",
    "VDiTLoadSource": "VDIT_SOURCE",
    "VDiTReplaySource": "MODEL",
    "VDiTFreezeHeads": "MODEL",
    "VDiTEntropyEnhance": "MODEL",
    "VDiTEntropyTransfer": "MODEL",
    "VDiTSkipHeads": "MODEL",
    "VDiTPerturb": "MODEL",
    "VDiTSparsity": "MODEL",
    "VDiTCompareVideos": "IMAGE, STRING, FLOAT, FLOAT, STRING, FLOAT, FLOAT, FLOAT, FLOAT",
    "VDiTSensitivity": "IMAGE, STRING, STRING, STRING, FLOAT",
    "VDiTLayerSweep": "MODEL, STRING",
    "VDiTSweepReport": "IMAGE, IMAGE, STRING, STRING, STRING",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "VDiTCapture": {"steps": "mid", "layers": "all", "heads": "all", "branch": "both"}
    | {"sinks": False, "structure": False, "sparsity": False, "frames": "all"}
    | {"text": False, "energy": False, "words": False},
    "VDiTEntropyPlot": {"quantity": "entropy share", "share": 0.5, "granularity": "layers"}
    | {"steps": "all", "branch": "both"},
    "VDiTTokenHeatmap": {"words": "", "layers": "all", "step": "mid", "opacity": 0.6}
    | {"threshold": 0.5, "branch": "both", "text": ""},
    "VDiTTransfer": {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "branch": "both"},
    "VDiTVideoSource": {"layers": "all", "strength": 1.0, "schedule": "", "hold_background": True},
    "VDiTRecordSource": {"dtype": "bf16", "place": "memory", "layers": "all"},
    "VDiTReplaySource": {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
    "VDiTPerturb": {"map": "identity", "strength": 1.0, "region": "all"},
    "VDiTEntropyEnhance": {"share": 0.5, "mode": "mix", "selection": "measured now"}
    | {"granularity": "layers", "region": "video→video", "first_steps": 1},
    "VDiTEntropyTransfer": {"share": 0.5, "which": "low", "strength": 1.0, "region": "all"}
    | {"selection": "measured now", "granularity": "layers", "first_steps": 1},
    "VDiTTemperature": {"temperature": 0.7, "region": "all"},
    "VDiTSkipHeads": {"heads": "-1:0", "region": "all"},
    "VDiTDetectSinks": {"weight": 0.3, "coverage": 0.5, "frequency": 0.5, "view": "heads"}
    | {"steps": "all", "branch": "both"},
    "VDiTRandomHeads": {"heads": "none", "over": "each layer", "seed": 0},
    "VDiTStatistics": {"statistic": "entropy share", "step": "mid", "branch": "both"},
    "VDiTSparsity": {"sparsity": 0.7, "mode": "exact", "schedule": "", "region": "all"},
    "VDiTLayerSweep": {"layers": "all", "operation": "one layer at a time", "resume": True}
    | {"baseline": True, "folder": "vdit/sweep"},
    "VDiTSweepReport": {"measure": "difference", "spare": 2, "value": 0.7, "spared_value": 0.0},
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The classes ComfyUI has after loading a custom_nodes folder with this repository in it."""
    link = tmp_path_factory.mktemp("custom_nodes") / "vdit-attention"
    link.symlink_to(REPO, target_is_directory=True)
    before = dict(comfy_nodes.NODE_CLASS_MAPPINGS)
    assert asyncio.run(comfy_nodes.load_custom_node(str(link)))
    after = comfy_nodes.NODE_CLASS_MAPPINGS
    yield {name: after[name] for name in after if after[name] is not before.get(name)}
    comfy_nodes.NODE_CLASS_MAPPINGS.clear()
    comfy_nodes.NODE_CLASS_MAPPINGS.update(before)


@pytest.mark.parametrize("lacking", ["ui", "io.Image"])
def test_a_comfyui_that_is_too_old_is_named_in_the_log(
    lacking: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    link = tmp_path / "vdit-attention"
    link.symlink_to(REPO, target_is_directory=True)
    monkeypatch.delattr(f"comfy_api.latest.{lacking}")
    assert not asyncio.run(comfy_nodes.load_custom_node(str(link)))
    said = caplog.messages[-1]
    assert "VDiT Attention needs ComfyUI 0.16.3 or newer" in said
    assert f"this one ({comfyui_version.__version__})" in said
    assert lacking.rpartition(".")[2] in said
    assert "Traceback" in caplog.text


def test_all_nodes_of_the_pack_are_there(pack: dict[str, Any]) -> None:
    assert set(pack) >= set(INPUTS)
    assert {name for name in pack if not name.startswith("VDiT")} == set()


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_have_these_names_in_this_order(name: str, pack: dict[str, Any]) -> None:
    schema = pack[name].GET_SCHEMA()
    assert ", ".join(i.id for i in schema.inputs) == INPUTS[name]


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_have_these_types_in_this_order(name: str, pack: dict[str, Any]) -> None:
    schema = pack[name].GET_SCHEMA()
    assert ", ".join(o.io_type for o in schema.outputs or []) == OUTPUTS[name]


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_sensible(name: str, pack: dict[str, Any]) -> None:
    inputs = {i.id: getattr(i, "input_override", i) for i in pack[name].GET_SCHEMA().inputs}
    assert {k: inputs[k].default for k in DEFAULTS[name]} == DEFAULTS[name]


@pytest.mark.parametrize("name", INPUTS)
def test_every_node_and_every_input_explains_itself(name: str, pack: dict[str, Any]) -> None:
    schema = pack[name].GET_SCHEMA()
    assert schema.display_name.startswith("VDiT ")
    assert schema.category.startswith("VDiT Attention/")
    assert len(schema.description) > 20
    assert {i.id for i in schema.inputs if not i.tooltip} == set()


@pytest.mark.parametrize("name", INPUTS)
def test_execute_takes_exactly_its_inputs(name: str, pack: dict[str, Any]) -> None:
    code = pack[name].execute.__func__.__code__
    assert set(code.co_varnames[1 : code.co_argcount]) == set(INPUTS[name].split(", "))


@pytest.mark.parametrize("name", INPUTS)
def test_every_node_has_a_help_page(name: str) -> None:
    page = REPO / "web" / "docs" / f"{name}.md"
    assert len(page.read_text(encoding="utf-8")) > 200


@pytest.mark.parametrize("name", INPUTS)
def test_every_node_is_shown_in_a_workflow(name: str) -> None:
    files = [p.read_text(encoding="utf-8") for p in (REPO / "workflows").glob("*.json")]
    shown = {node["type"] for text in files for node in json.loads(text)["nodes"]}
    assert name in shown


@pytest.mark.parametrize("name", ["VDiTCapture", "VDiTRecordSource"])
def test_two_nodes_with_equal_inputs_do_not_share_a_mailbox(
    name: str, pack: dict[str, Any]
) -> None:
    """ComfyUI's cache gives nodes of equal inputs one output, unless they ask for their own."""
    prompt = {
        "1": {"class_type": "VDiTToyWorld", "inputs": {"variant": "wan"}},
        "2": {"class_type": name, "inputs": {"model": ["1", 0]}},
        "3": {"class_type": name, "inputs": {"model": ["1", 0]}},
    }

    class Unchanged:
        async def get(self, node: str) -> bool:
            return False

    keys: Any = CacheKeySetInputSignature(DynamicPrompt(prompt), prompt, Unchanged())
    asyncio.run(keys.add_keys(prompt))
    assert keys.get_data_key("2") != keys.get_data_key("3")


def test_the_web_folder_that_is_announced_exists() -> None:
    import vdit_attention

    assert (REPO / vdit_attention.WEB_DIRECTORY).is_dir()
