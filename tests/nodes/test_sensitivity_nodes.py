"""The probe through ComfyUI's sampler, its schedule in VDiT Sparsity, and temperatures by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention as core
import comfy.ldm.wan.model
import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.nodes.capture import VDiTCapture
from vdit_attention.nodes.edit import VDiTSparsity, VDiTTemperature
from vdit_attention.nodes.sensitivity import VDiTSensitivity
from vdit_attention.tests.nodes import tiny
from vdit_attention.vdit_core.attention import RATES, TEMPERATURES
from vdit_attention.vdit_core.edits.sparsity import Sparsify
from vdit_attention.vdit_core.record import Record, load_record, save_record

EVERYWHERE: dict[str, Any] = {"layers": "all", "heads": "all", "branch": "both"}
WHOLE: dict[str, Any] = EVERYWHERE | {"start_percent": 0.0, "end_percent": 1.0}
DEFAULTS: dict[str, Any] = {
    "target": "rate",
    "rate": 0.7,
    "limit": 0.1,
    "mass_lost": 0.05,
    "steps": "all",
    "branch": "both",
}


def run(node: Any, *args: Any, **inputs: Any) -> Any:
    return node.PREPARE_CLASS_CLONE(None).execute(*args, **inputs).result


def captured(model: ModelPatcher, **asked: Any) -> tuple[ModelPatcher, Record]:
    chosen = EVERYWHERE | {"steps": "all", "map_size": 16} | asked
    return run(VDiTCapture, model, **chosen)


@pytest.fixture(scope="module")
def probed() -> tuple[Record, list[tiny.Seen], Tensor]:
    """What was captured of two videos, the calls of that sampling, and its latent."""
    spy = tiny.Spy(core.attention_pytorch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.ldm.wan.model, "optimized_attention", spy)
        switches = {"sensitivity": True, "temperatures": True, "sparsity": True}
        model, record = captured(tiny.tiny_wan(), **switches)
        asked = {"positive": tiny.prompt(1, batch=2), "latent": tiny.empty_latent(2)}
        latent = tiny.sample(model, **asked)  # pyright: ignore
    return record, [seen for seen in spy.seen if not seen.cross], latent


@pytest.fixture(autouse=True)
def previews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))


def look(record: Record, **asked: Any) -> Any:
    return run(VDiTSensitivity, record=record, **(DEFAULTS | asked))


def scores(seen: tiny.Seen, row: int) -> Tensor:
    q, k = seen.q[row].double(), seen.k[row].double()
    return q @ k.mT * q.shape[-1] ** -0.5


def thinned(maps: Tensor, rate: float) -> Tensor:
    """Dense maps [H, L, L] without the smallest weights of each head."""
    ordered = maps.flatten(1).sort(-1).values
    kept = maps * (maps >= ordered[:, int(rate * ordered.shape[1])][:, None, None])
    total = kept.sum(-1, keepdim=True)
    return kept / total.where(total > 0, 1)


def test_every_call_row_and_branch_is_probed_as_it_was(
    probed: tuple[Record, list[tiny.Seen], Tensor],
) -> None:
    record, calls, _ = probed
    assert (
        len(record.data.measurements) == 2 * tiny.LAYERS * 2 * 2
    )  # steps, layers, branches, videos
    for m in record.data.measurements:
        (seen,) = (s for s in calls if s.layer == m.layer and abs(s.sigma - m.sigma) < 1e-6)
        row = seen.chunks.index(("cond", "uncond").index(m.branch)) * seen.items + m.item
        v, found = seen.v[row].double(), m.measures
        assert found.output_error is not None and found.output_norm is not None
        assert found.temperature_entropy is not None
        maps = scores(seen, row).softmax(-1)
        torch.testing.assert_close(
            found.output_norm.double(), (maps @ v).flatten(1).norm(dim=-1), rtol=1e-4, atol=1e-5
        )
        for n, rate in enumerate(RATES):
            wanted = ((thinned(maps, rate) - maps) @ v).flatten(1).norm(dim=-1)
            close = {"rtol": 2e-3, "atol": 1e-4}
            torch.testing.assert_close(found.output_error[:, n].double(), wanted, **close)
        for n, value in enumerate(TEMPERATURES):
            flat = torch.special.entr((scores(seen, row) / value).softmax(-1)).sum(-1).mean(-1)
            close = {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(found.temperature_entropy[:, n].double(), flat, **close)


def test_probing_changes_nothing(probed: tuple[Record, list[tiny.Seen], Tensor]) -> None:
    asked = {"positive": tiny.prompt(1, batch=2), "latent": tiny.empty_latent(2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.ldm.wan.model, "optimized_attention", core.attention_pytorch)
        assert torch.equal(probed[2], tiny.sample(tiny.tiny_wan(), **asked))  # pyright: ignore


@pytest.mark.parametrize("mode", ["exact", "exact two-run", "block"])
@pytest.mark.parametrize("target", ["rate", "error", "mass lost"])
def test_sparsity_takes_the_schedule(
    target: str, mode: str, probed: tuple[Record, list[tiny.Seen], Tensor]
) -> None:
    _, _, csv, schedule, _ = look(probed[0], target=target, limit=0.3)
    rates = [float(line.split(",")[-2]) for line in csv.splitlines()[1:]]
    chosen = WHOLE | {"mode": mode, "renormalize": True, "block_size": 16, "reuse_steps": 1}
    (model,) = run(VDiTSparsity, tiny.tiny_wan(), sparsity=0.9, schedule=schedule, **chosen)
    (edit,) = model.model_options["transformer_options"]["vdit_program"]
    assert edit.change.rates == tuple(rates), "not what the table says"
    assert bool(torch.isfinite(tiny.sample(model)).all())


def test_a_saved_record_gives_the_same(
    probed: tuple[Record, list[tiny.Seen], Tensor], tmp_path: Path
) -> None:
    record, _, latent = probed
    save_record(record.data, tmp_path / "a.safetensors")
    loaded = look(Record(load_record(tmp_path / "a.safetensors")), target="error")
    fresh = look(record, target="error", latent={"samples": latent})
    assert torch.equal(loaded[0], fresh[0]) and loaded[1:] == fresh[1:]


def test_the_inputs_keep_their_names_and_order() -> None:
    names = [i.id for i in VDiTSensitivity.GET_SCHEMA().inputs]
    assert names == ["record", "latent", *DEFAULTS, "sweep"]
    outputs = [o.display_name or o.io_type for o in VDiTSensitivity.GET_SCHEMA().outputs]
    assert outputs == ["IMAGE", "report", "csv", "schedule", "error"]
    assert [i.id for i in VDiTTemperature.GET_SCHEMA().inputs][-2:] == ["region", "schedule"]


def test_a_probe_beside_sparsity_is_refused_before_sampling() -> None:
    sparse = tiny.edited(tiny.tiny_wan(), Sparsify((0.0, 0.5, 0.5)))
    model, _ = captured(sparse, sensitivity=True)
    with pytest.raises(ValueError, match="Edit drops weights in layers 1-2; capture"):
        tiny.sample(model)
    model, record = captured(sparse, sensitivity=True, layers="0")
    tiny.sample(model)
    assert {m.layer for m in record.data.measurements} == {0}


def temperatures(model: ModelPatcher, schedule: str) -> ModelPatcher:
    return run(VDiTTemperature, model, temperature=2.0, schedule=schedule, **WHOLE)[0]


def test_each_layer_has_its_own_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = tiny.Spy(core.attention_pytorch)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", spy)
    tiny.sample(temperatures(tiny.tiny_wan(), "all=0.5; 1=1; 2=0.25; 2=4"))
    for seen in (s for s in spy.seen if not s.cross):
        value = (0.5, 1.0, 4.0)[seen.layer]
        if value == 1:
            assert torch.equal(seen.out, seen.plain(core.attention_pytorch))
        for row in range(len(seen.q)):
            wanted = (scores(seen, row) / value).softmax(-1) @ seen.v[row].double()
            torch.testing.assert_close(seen.out[row].double(), wanted, rtol=1e-4, atol=1e-5)


def test_layers_that_the_schedule_does_not_name_take_the_temperature() -> None:
    alike = tiny.sample(temperatures(tiny.tiny_wan(), "1=0.5"))
    assert torch.equal(alike, tiny.sample(temperatures(tiny.tiny_wan(), "all=2; 1=0.5")))
    neutral = tiny.sample(temperatures(tiny.tiny_wan(), "all=1"))
    assert torch.equal(neutral, tiny.sample(tiny.tiny_wan()))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("3=0.5", "names layer 3, but this model has layers 0 to 2"),
        ("1=0", "temperature: got 0.0, but it must be above 0"),
        ("1:0.5", "cannot read '1:0.5'"),
    ],
)
def test_a_wrong_schedule_is_refused_before_sampling(schedule: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        temperatures(tiny.tiny_wan(), schedule)
