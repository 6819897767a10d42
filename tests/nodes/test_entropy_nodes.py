"""Energy, its parts and words through the sampler of each family, and VDiT Entropy Plot."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention as core
import folder_paths
import pytest
import torch
from torch import Tensor
from vdit_attention.nodes.capture import VDiTCapture
from vdit_attention.nodes.edit import VDiTPerturb, VDiTSkipHeads
from vdit_attention.nodes.entropy import VDiTEntropyPlot
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.families import (
    COGVIDEOX,
    FAMILIES,
    HEADS,
    LAYERS,
    VIDEO,
    WAN,
    Family,
    Seen,
    Spy,
)
from vdit_attention.tests.oracle import Case, no_wish
from vdit_attention.tests.parts import true_parts
from vdit_attention.vdit_core.attention import PARTS
from vdit_attention.vdit_core.entropy import QUANTITIES
from vdit_attention.vdit_core.record import Record, RecordData, load_record, save_record

CAPTURE: dict[str, Any] = {"layers": "all", "heads": "0,2", "steps": "all", "branch": "both"}
PLOT: dict[str, Any] = {"share": 0.5, "granularity": "layers", "steps": "all", "branch": "both"}
WINDOW: dict[str, Any] = {"start_percent": 0.0, "end_percent": 1.0, "branch": "both"}
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(autouse=True)
def previews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))


def run(node: Any, *args: Any, **inputs: Any) -> Any:
    return node.PREPARE_CLASS_CLONE(None).execute(*args, **inputs).result


def captured(family: Family, **asked: Any) -> tuple[RecordData, list[Seen], Tensor]:
    """A record of two videos, every attention call of the blocks, and the latent."""
    spy = Spy(core.attention_pytorch)
    plain = family.make()  # skips where this ComfyUI does not know the family
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{family.module}.optimized_attention", spy)
        if hasattr(import_module(family.module), "optimized_attention_masked"):
            patch.setattr(f"{family.module}.optimized_attention_masked", spy)
        alike = {"negative": family.prompt(2)} if family is COGVIDEOX else {}
        model, record = run(VDiTCapture, plain, map_size=16, **(CAPTURE | asked))
        latent = family.sample(model, steps=1, latent=family.latent(2), **alike)
    return record.data, [seen for seen in spy.seen if seen.q.shape[2] >= VIDEO], latent


def dense(calls: list[Seen], layer: int, branch: str, item: int) -> tuple[Tensor, Tensor]:
    """Maps [2, Lq, Lk] of heads 0 and 2 in float64, and their values."""
    chunk = ("cond", "uncond").index(branch)
    seen = [one for one in calls if chunk in one.chunks][layer]
    mask = seen.mask
    if mask is not None and mask.ndim < 4:
        mask = mask[None, None] if mask.ndim == 2 else mask[:, None]
    maps = Case(seen.q, seen.k, seen.v, no_wish(seen.q.shape[0], seen.heads), mask).true_maps()
    row = seen.chunks.index(chunk) * (seen.q.shape[0] // len(seen.chunks)) + item
    return maps[row, [0, 2]], seen.v[row, [0, 2]].double()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_energy_and_parts_are_those_of_the_dense_maps(family: Family) -> None:
    data, calls, _ = captured(family, energy=True)
    calls = [seen for seen in calls if not seen.cross]
    assert len(data.measurements) == LAYERS * 2 * 2 and not data.cross
    for m in data.measurements:
        maps, v = dense(calls, m.layer, m.branch, m.item)
        energy = (maps @ v).square().sum((1, 2))
        assert m.measures.energy is not None and m.measures.prompt_places is None
        torch.testing.assert_close(m.measures.energy.double(), energy, **CLOSE)
        grid = data.header_of(m).grid
        for name, values in true_parts(maps[None], grid).items():
            mine = getattr(m.measures, name).double()
            torch.testing.assert_close(mine, values[0], **CLOSE)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_words_are_looked_at_from_these_places(family: Family) -> None:
    data, calls, _ = captured(family, words=True)
    outside = bool(data.cross)
    calls = [seen for seen in calls if seen.cross == outside]
    found = data.cross or data.measurements
    assert len(found) == LAYERS * 2 * 2
    for m in found:
        maps, _ = dense(calls, m.layer, m.branch, m.item)
        length = 4 if m.branch == "uncond" and family is not COGVIDEOX else 6
        start = 0 if outside or family.text_first else VIDEO
        video = maps.shape[1] - VIDEO if family.text_first and not outside else 0
        wanted = maps[:, video : video + VIDEO, start : start + length].mean(0).mT
        places = m.measures.prompt_places
        assert m.tokens == length and places is not None
        assert places.shape == (length, VIDEO) and places.dtype == torch.bfloat16
        torch.testing.assert_close(places.double(), wanted, rtol=2**-8, atol=1e-7)


def test_capturing_changes_nothing_and_a_saved_record_gives_the_same(tmp_path: Path) -> None:
    data, _, latent = captured(WAN, energy=True, words=True, text=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{WAN.module}.optimized_attention", core.attention_pytorch)
        plain = WAN.sample(WAN.make(), steps=1, latent=WAN.latent(2))
    assert torch.equal(latent, plain)
    save_record(data, tmp_path / "a.safetensors")
    back = load_record(tmp_path / "a.safetensors")
    for old, new in zip(
        (*data.measurements, *data.cross), (*back.measurements, *back.cross), strict=True
    ):
        for name, value in vars(old.measures).items():
            again = getattr(new.measures, name)
            assert again is None if value is None else torch.equal(again, value), name
    for name in QUANTITIES:
        fresh = run(VDiTEntropyPlot, Record(data), latent={"samples": latent}, **plot(name))
        loaded = run(VDiTEntropyPlot, Record(back), **plot(name))
        assert torch.equal(fresh[0], loaded[0]) and fresh[1:] == loaded[1:]


def plot(name: str) -> dict[str, Any]:
    return PLOT | {"quantity": name}


def test_the_parts_of_an_edited_map_are_measured() -> None:
    """The uniform map spreads each part evenly; the mixture's are not those of the model's own."""
    flat = run(VDiTPerturb, WAN.make(), "uniform", 1.0, "all", "all", **WINDOW)[0]
    model, record = run(VDiTCapture, flat, map_size=16, energy=True, **CAPTURE)
    WAN.sample(model, steps=1)
    shape = tiny.FRAMES * tiny.ROWS * tiny.COLS
    even = [torch.tensor(n).log() for n in (shape / tiny.FRAMES, float(tiny.FRAMES))]
    even += [torch.tensor(n) for n in (1 / tiny.FRAMES, tiny.FRAMES / shape)]
    for m in record.data.measurements:
        for name, value in zip(PARTS, even, strict=True):
            torch.testing.assert_close(getattr(m.measures, name), value.expand(2), **CLOSE)


def test_its_wires_fit_the_nodes_that_take_them() -> None:
    data, _, _ = captured(WAN, heads="all")
    heads = run(VDiTEntropyPlot, Record(data), **(plot("entropy") | {"granularity": "heads"}))
    model = run(VDiTSkipHeads, WAN.make(), heads[2], **WINDOW)[0]
    (edit,) = model.model_options["transformer_options"]["vdit_program"]
    counts = (HEADS,) * LAYERS
    assert sum(map(len, edit.where.resolve(counts).values())) == HEADS * LAYERS // 2
    assert heads[2] == heads[3] and heads[4] == heads[5]
    low = run(VDiTSkipHeads, WAN.make(), heads[4], **WINDOW)[0]
    (other,) = low.model_options["transformer_options"]["vdit_program"]
    chosen = [
        {(layer, h) for layer, found in e.where.resolve(counts).items() for h in found}
        for e in (edit, other)
    ]
    assert not chosen[0] & chosen[1] and len(chosen[0] | chosen[1]) == HEADS * LAYERS
    layers = run(VDiTEntropyPlot, Record(data), **plot("entropy"))
    assert layers[6:8] == heads[6:8]  # whole layers, whatever the granularity
    sampled = run(VDiTPerturb, WAN.make(), "uniform", 0.5, layers[7], "all", **WINDOW)[0]
    assert bool(torch.isfinite(WAN.sample(sampled, steps=1)).all())


def test_what_was_not_captured_is_an_error_that_names_the_switch() -> None:
    data, _, _ = captured(WAN)
    for name, switch in (("energy", "energy"), ("text entropy share", "text")):
        with pytest.raises(ValueError, match=f"turn on {switch} on VDiT Capture"):
            run(VDiTEntropyPlot, Record(data), **plot(name))
