"""From capture to skipped heads, through the nodes and the real sampler, on planted models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sample
import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_execution.utils import CurrentNodeContext
from torch import Tensor
from vdit_attention.benchmarks import planted
from vdit_attention.nodes.capture import VDiTCapture
from vdit_attention.nodes.edit import VDiTSkipHeads
from vdit_attention.nodes.merge import VDiTMergeRecords
from vdit_attention.nodes.sinks import VDiTDetectSinks, VDiTRandomHeads
from vdit_attention.tests.nodes import families, tiny
from vdit_attention.tests.nodes.families import MOCHI, VIDEO
from vdit_attention.vdit_core.record import Record, load_record, save_record

SINKS, TEXT = {0: (1,), 2: (0, 3)}, "0:1; 2:0,3"
PLACE = 41  # of the marked video token in Wan
Sampled = tuple[Record, Tensor]


@pytest.fixture(autouse=True)
def previews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))


def run(node: Any, **inputs: Any) -> Any:
    return node.PREPARE_CLASS_CLONE(None).execute(**inputs).result


def captured(model: ModelPatcher, **asked: Any) -> tuple[ModelPatcher, Record]:
    chosen = {"layers": "all", "heads": "all", "steps": "all", "branch": "both", "map_size": 16}
    return run(VDiTCapture, model=model, **(chosen | {"sinks": True} | asked))


def planted_wan(sinks: planted.Sinks = SINKS) -> ModelPatcher:
    model = tiny.tiny_wan(**planted.WAN_CONFIG)
    planted.plant_wan(model, sinks, (1,))
    return model


def sampled_wan(model: ModelPatcher, seed: int = 1) -> Tensor:
    noise = comfy.sample.prepare_noise(tiny.empty_latent()["samples"], seed)
    noise = planted.marked_noise(noise, PLACE)
    return tiny.sample(model, noise=noise, positive=tiny.prompt(seed))


def detected(record: Record, **asked: Any) -> Any:
    chosen = {"weight": 0.3, "coverage": 0.5, "frequency": 0.5, "view": "heads", "steps": "all"}
    return run(VDiTDetectSinks, record=record, **(chosen | {"branch": "both"} | asked))


@pytest.fixture(scope="module")
def wan() -> Sampled:
    model, record = captured(planted_wan())
    return record, sampled_wan(model)


@pytest.fixture(scope="module")
def mochi() -> Sampled:
    model = families.tiny_mochi()
    planted.plant_mochi(model, SINKS, (1,))
    prompts = [planted.marked_prompt(MOCHI.prompt(*which)) for which in ((1,), (2, 4))]
    watched, record = captured(model)
    return record, MOCHI.sample(watched, positive=prompts[0], negative=prompts[1])


def test_exactly_the_planted_heads_of_wan_are_found(wan: Sampled) -> None:
    record, samples = wan
    heads, text, image, report, csv = detected(record, latent={"samples": samples})
    assert heads == text == TEXT
    assert image.ndim == 4 and image.shape[-1] == 3
    assert report.startswith(f"Sinks: {TEXT}\n") and "frame 1, row 0, col 6" in report
    assert csv.count("\n") == 1 + 2 * 2 * tiny.LAYERS * tiny.HEADS


def test_exactly_the_planted_heads_of_mochi_are_found_at_the_prompt(mochi: Sampled) -> None:
    record, _ = mochi
    assert record.data.header.grid.text == (VIDEO, VIDEO + 6)
    _, text, _, report, _ = detected(record, view="places")
    assert text == TEXT and "text token 0" in report


def test_none_are_found_where_none_are_planted() -> None:
    model, record = captured(planted_wan({}))
    sampled_wan(model)
    heads, text, *_ = detected(record)
    assert heads == text == "none"


def test_the_heads_on_the_wire_are_those_that_are_skipped(wan: Sampled) -> None:
    heads = detected(wan[0])[0]
    model, window = planted_wan(), {"start_percent": 0.0, "end_percent": 1.0, "branch": "both"}

    def skipped(heads: str) -> Tensor:
        return sampled_wan(run(VDiTSkipHeads, model=model, heads=heads, **window)[0])

    whole = sampled_wan(model)
    by_sinks = (skipped(heads) - whole).norm()
    drawn, text = run(VDiTRandomHeads, model=model, heads=heads, over="all layers", seed=0)
    assert drawn == text
    assert 0 < by_sinks < 0.2 * (skipped(drawn) - whole).norm()
    assert torch.equal(skipped(TEXT), skipped(heads))


def test_a_list_of_prompts_leaves_a_video_for_each_in_one_record() -> None:
    model, record = captured(planted_wan())
    for index in range(2):
        with CurrentNodeContext("a queue", "a sampler", index):
            sampled_wan(model, seed=index + 1)
    alone = [captured(planted_wan()) for _ in range(2)]
    for seed, (each, _) in enumerate(alone, 1):
        sampled_wan(each, seed)
    one_by_one = [found.data.measurements for _, found in alone]
    both = record.data.measurements
    assert [m.item for m in both] == [item for item in (0, 1) for _ in one_by_one[item]]
    for old, new in zip([m for each in one_by_one for m in each], both, strict=True):
        assert torch.equal(old.measures.pooled_map, new.measures.pooled_map)
    with CurrentNodeContext("the next queue", "a sampler", 0):
        sampled_wan(model)
    assert {m.item for m in record.data.measurements} == {0}


def test_two_samplings_merge_into_one_record(wan: Sampled, tmp_path: Path) -> None:
    first, samples = wan
    model, second = captured(planted_wan())
    latents = [{"samples": each} for each in (samples, sampled_wan(model, seed=2))]
    (both,) = run(
        VDiTMergeRecords,
        record=[first],
        latent=latents[:1],
        record_2=[second],
        latent_2=latents[1:],
    )
    (listed,) = run(VDiTMergeRecords, record=[first, second])
    for found in (both, listed):
        assert {m.item for m in found.data.measurements} == {0, 1}
    assert {m.item for m in first.data.measurements} == {0}
    image = detected(both, view="steps")[2]
    save_record(both.data, tmp_path / "both.safetensors")
    assert torch.equal(
        image, detected(Record(load_record(tmp_path / "both.safetensors")), view="steps")[2]
    )


def test_what_cannot_be_merged_is_refused(wan: Sampled, mochi: Sampled) -> None:
    with pytest.raises(
        ValueError, match=r"the model of record 1 is Mochi .*, but Wan .* in record"
    ):
        run(VDiTMergeRecords, record=[wan[0]], record_2=[mochi[0]])
    with pytest.raises(ValueError, match="one of them is given twice"):
        run(VDiTMergeRecords, record=[wan[0]], record_2=[wan[0]])
    with pytest.raises(ValueError, match="nothing has been captured yet"):
        run(VDiTMergeRecords, record=[wan[0], Record()])
    with pytest.raises(ValueError, match="a record from another model or size"):
        run(VDiTMergeRecords, record=[wan[0]], latent=[{"samples": torch.zeros(1, 16, 4, 5, 7)}])


def test_a_weight_that_was_not_counted_says_what_to_set(wan: Sampled) -> None:
    with pytest.raises(ValueError, match=r"set tau = 0\.4 on VDiT Capture and sample again"):
        detected(wan[0], weight=0.4)


def test_more_random_heads_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="4 of layer 1 are given, which leaves 0 others"):
        run(VDiTRandomHeads, model=tiny.tiny_wan(), heads="1:*", over="each layer", seed=0)
    with pytest.raises(ValueError, match="heads: '4' names head 4, but layer 0 has heads 0 to 3"):
        run(VDiTRandomHeads, model=tiny.tiny_wan(), heads="0:4", over="each layer", seed=0)


def test_heads_are_typed_or_wired() -> None:
    for node in (VDiTSkipHeads, VDiTRandomHeads):
        heads = next(i for i in node.GET_SCHEMA().inputs if i.id == "heads")
        assert heads.get_io_type() == "STRING,VDIT_HEADS"
        assert heads.as_dict()["widgetType"] == "STRING"
        assert heads.as_dict()["default"] in ("-1:0", "none")
