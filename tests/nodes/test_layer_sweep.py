"""A layer sweep through ComfyUI's own sampler: each entry, what is kept, and what is sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.nodes.sweep import VDiTLayerSweep
from vdit_attention.tests.nodes import tiny
from vdit_attention.vdit_core.edits import Change
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.sparsity import Sparsify
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.host import kept
from vdit_attention.vdit_core.pairs import pair_latent, pair_prompts

CHANGES: dict[str, Change] = {
    "temperature": Temperature(0.3),
    "skip": Skip(),
    "perturb": Perturb("uniform", 0.7),
    "sparsity": Sparsify((0.6, 0.7, 0.8)),
    "transfer": PairTransfer(1.0),
}


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.tiny_wan()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where latents are kept."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path / "vdit" / "sweep"


@pytest.fixture
def evaluations(model: ModelPatcher) -> Iterator[list[int]]:
    """One entry for each time the network runs."""
    ran: list[int] = []
    handle = model.model.diffusion_model.register_forward_pre_hook(lambda *_: ran.append(1))
    yield ran
    handle.remove()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(kept, "tell", lambda _, line: lines.append(line))
    return lines


def swept(model: ModelPatcher, layers: str = "all", **asked: Any) -> dict[str, ModelPatcher]:
    """The node's models by their labels."""
    chosen = {"operation": "one layer at a time", "baseline": True, "resume": True}
    node: Any = VDiTLayerSweep.PREPARE_CLASS_CLONE(None)
    given = chosen | {"folder": "vdit/sweep"} | asked
    models, labels = node.execute(model=model, layers=layers, **given).result
    return dict(zip(labels, models, strict=True))


def paired() -> dict[str, Any]:
    positive = pair_prompts(tiny.prompt(1), tiny.prompt(3))
    return {"positive": positive, "latent": pair_latent(tiny.empty_latent())}


def inputs_of(change: Change) -> dict[str, Any]:
    return paired() if change.pairs else {}


@pytest.mark.parametrize("name", CHANGES)
def test_each_entry_is_the_edit_restricted_by_hand(name: str, model: ModelPatcher) -> None:
    change, how = CHANGES[name], inputs_of(CHANGES[name])
    one = swept(tiny.edited(model, change), resume=False)
    assert torch.equal(tiny.sample(one["none"], **how), tiny.sample(model, **how))
    for n in range(tiny.LAYERS):
        by_hand = tiny.sample(tiny.edited(model, change, str(n)), **how)
        assert torch.equal(tiny.sample(one[f"layer {n}"], **how), by_hand)
    others = swept(tiny.edited(model, change), "1", operation="all but one", baseline=False)
    by_hand = tiny.sample(tiny.edited(model, change, "0,2"), **how)
    assert torch.equal(tiny.sample(others["all but layer 1"], **how), by_hand)


def test_a_resumed_result_is_bit_identical_and_runs_nothing(
    model: ModelPatcher, evaluations: list[int], folder: Path, told: list[str]
) -> None:
    edited = tiny.edited(model, Temperature(0.3))
    first = {label: tiny.sample(m) for label, m in swept(edited).items()}
    assert len([*folder.glob("*.safetensors")]) == 4
    ran = len(evaluations)
    again = {label: tiny.sample(m) for label, m in swept(edited).items()}
    assert len(evaluations) == ran
    for label, latent in first.items():
        assert torch.equal(again[label], latent) and again[label].dtype == latent.dtype
    assert told[2:4] == ["2 of 4: layer 0", "2 of 4: layer 0, kept in sweep"]
    assert told[-1] == "4 of 4: layer 2, taken from sweep"


def test_more_layers_run_only_those(model: ModelPatcher, evaluations: list[int]) -> None:
    edited = tiny.edited(model, Skip())
    for m in swept(edited, "0,1").values():
        tiny.sample(m)
    ran = len(evaluations)
    for m in swept(edited, "0-2").values():
        tiny.sample(m)
    assert len(evaluations) == ran + 2  # one entry of two steps, cond and uncond together


def test_an_edit_written_in_another_way_is_the_same_sampling(
    model: ModelPatcher, evaluations: list[int]
) -> None:
    tiny.sample(swept(tiny.edited(model, Skip()), "1", baseline=False)["layer 1"])
    ran = len(evaluations)
    other = swept(tiny.edited(model, Skip(), "1-2", "0-3"), "-2,2", baseline=False)
    tiny.sample(other["layer 1"])
    assert len(evaluations) == ran


def test_a_cancelled_sweep_goes_on_where_it_stopped(
    model: ModelPatcher, evaluations: list[int], folder: Path
) -> None:
    wanted = [tiny.sample(m) for m in swept(tiny.edited(model, Skip()), resume=False).values()]
    models = [*swept(tiny.edited(model, Skip())).values()]

    def cancel(step: int, *_: object) -> None:
        if step == 0:
            raise comfy.model_management.InterruptProcessingException()

    found = [tiny.sample(m) for m in models[:2]]
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(models[2], callback=cancel)
    assert len([*folder.iterdir()]) == 2
    del evaluations[:]
    found = [tiny.sample(m) for m in models]
    assert len(evaluations) == 2 * 2
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_cancelling_stops_before_a_kept_one_is_taken(model: ModelPatcher) -> None:
    entry = swept(tiny.edited(model, Skip()))["layer 0"]
    tiny.sample(entry)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(entry)


def test_the_callback_hears_the_last_step_of_a_kept_one(model: ModelPatcher) -> None:
    def heard() -> list[tuple[int, Tensor, Tensor, int]]:
        calls: list[Any] = []
        tiny.sample(entry, callback=lambda *call: calls.append(call))
        return calls

    entry = swept(tiny.edited(model, Skip()))["layer 0"]
    (_, last), (again,) = heard(), heard()
    assert (again[0], again[3]) == (last[0], last[3]) == (1, 2)
    assert torch.equal(again[1], last[1]) and torch.equal(again[2], last[2])


def with_lora(model: ModelPatcher, value: float, strength: float) -> ModelPatcher:
    patched = model.clone()
    name = "diffusion_model.blocks.1.ffn.0.weight"
    weight = model.model.state_dict()[name]
    patched.add_patches({name: ("diff", (torch.full_like(weight, value),))}, strength)
    return patched


def masked() -> dict[str, Any]:
    return tiny.empty_latent() | {"noise_mask": torch.ones(1, 1, tiny.ROWS, tiny.COLS)}


OTHERS: dict[str, Callable[[ModelPatcher], tuple[ModelPatcher, dict[str, Any]]]] = {
    "seed": lambda m: (m, {"seed": 2}),
    "steps": lambda m: (m, {"steps": 3}),
    "cfg": lambda m: (m, {"cfg": 2.0}),
    "sampler": lambda m: (m, {"sampler": "heun"}),
    "prompt": lambda m: (m, {"positive": tiny.prompt(5)}),
    "negative prompt": lambda m: (m, {"negative": tiny.prompt(5)}),
    "something beside the prompt": lambda m: (m, {"positive": tiny.prompt(1, strength=0.5)}),
    "mask": lambda m: (m, {"latent": masked()}),
    "latent": lambda m: (m, {"latent": {"samples": tiny.empty_latent()["samples"] + 0.1}}),
    "number of the edit": lambda m: (tiny.edited(m, Temperature(0.9)), {}),
    "heads": lambda m: (tiny.edited(m, Skip(), heads="1"), {}),
    "branch": lambda m: (tiny.edited(m, Temperature(0.9), branch="cond"), {}),
    "a LoRA": lambda m: (with_lora(m, 0.1, 1.0), {}),
    "strength of the LoRA": lambda m: (with_lora(m, 0.1, 0.5), {}),
    "another LoRA": lambda m: (with_lora(m, 0.2, 1.0), {}),
    "another's override": lambda m: (other_pack(m, 2.0), {}),
    "its settings": lambda m: (other_pack(m, 3.0), {}),
    "weights": lambda m: (tiny.tiny_wan(seed=1), {}),
}


def other_pack(model: ModelPatcher, factor: float) -> ModelPatcher:
    def override(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        return function(*args, **kwargs) * factor

    patched = model.clone()
    patched.model_options["transformer_options"]["optimized_attention_override"] = override
    return patched


def test_whatever_changes_the_result_is_sampled_anew(model: ModelPatcher, folder: Path) -> None:
    """And nothing else: sampled once more, each is taken from its file."""
    tiny.sample(swept(tiny.edited(model, Skip()), "1", baseline=False)["layer 1"])
    for name, other in OTHERS.items():
        patched, how = other(model)
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        for _ in range(2):
            entry = swept(tiny.edited(patched, Skip()), "1", baseline=False)["layer 1"]
            tiny.sample(entry, **how)
        after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert len(after) == len(before) + 1, name
        assert before.items() <= after.items(), name


def test_a_lora_that_is_loaded_already_has_the_same_key(
    model: ModelPatcher, evaluations: list[int]
) -> None:
    """ComfyUI writes it into the weights, and takes it out again when another model is used."""
    plain, lora = (
        swept(tiny.edited(m, Skip()), "1", baseline=False)["layer 1"]
        for m in (model, with_lora(model, 0.1, 1.0))
    )
    first = tiny.sample(plain), tiny.sample(lora)
    ran = len(evaluations)
    assert torch.equal(tiny.sample(plain), first[0]) and torch.equal(tiny.sample(lora), first[1])
    assert len(evaluations) == ran and not torch.equal(*first)


def test_a_damaged_file_is_sampled_again(
    model: ModelPatcher, evaluations: list[int], folder: Path
) -> None:
    entry = swept(tiny.edited(model, Skip()))["layer 1"]
    latent = tiny.sample(entry)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    ran = len(evaluations)
    assert torch.equal(tiny.sample(entry), latent) and len(evaluations) > ran
    ran = len(evaluations)
    assert torch.equal(tiny.sample(entry), latent) and len(evaluations) == ran


def test_a_watched_model_is_always_sampled(model: ModelPatcher, told: list[str]) -> None:
    edited, record = tiny.watched(tiny.edited(model, Skip()))
    for label, entry in swept(edited, "1").items():
        tiny.sample(entry)
        first = record.data
        tiny.sample(entry)
        assert record.data is not first, label
    assert told[0] == "1 of 2: none; not kept: Capture needs the sampling to run"


def test_what_cannot_be_read_is_not_kept_and_said(
    model: ModelPatcher, folder: Path, told: list[str]
) -> None:
    patched = model.clone()
    patched.model_options["transformer_options"]["of another pack"] = {"hidden": object()}
    tiny.sample(swept(tiny.edited(patched, Skip()))["layer 0"])
    reason = "options.transformer_options.of another pack.hidden is a builtins.object"
    assert told == [f"2 of 4: layer 0; not kept: {reason}"]
    assert not folder.exists()


def test_a_full_disk_does_not_cost_the_video(
    model: ModelPatcher, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(kept, "save_finished", fail)
    entry = swept(tiny.edited(model, Skip()))["layer 1"]
    assert torch.equal(tiny.sample(entry), tiny.sample(tiny.edited(model, Skip(), "1")))
    assert told[-1] == "3 of 4: layer 1; not kept: no space left"


def test_an_edit_behind_the_sweep_is_part_of_it(model: ModelPatcher) -> None:
    entry = swept(tiny.edited(model, Skip()))["layer 1"]
    tiny.sample(entry)
    both = tiny.edited(entry, Temperature(0.5), "0")
    by_hand = tiny.edited(tiny.edited(model, Skip(), "1"), Temperature(0.5), "0")
    assert torch.equal(tiny.sample(both), tiny.sample(by_hand))


@pytest.mark.parametrize("folder_text", ["", "..", "../x", "/tmp", "vdit/../..", "."])
def test_a_folder_outside_the_output_folder_is_refused(
    folder_text: str, model: ModelPatcher
) -> None:
    with pytest.raises(ValueError, match="must name a folder inside ComfyUI's output folder"):
        swept(tiny.edited(model, Skip()), folder=folder_text)
