"""Entropy and energy by layer: numbers of a made-up record, their shares, their pictures."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.attention import MapMeasures, TextMeasures
from vdit_attention.vdit_core.entropy import QUANTITIES, levels_of
from vdit_attention.vdit_core.figures.entropy import draw_entropy
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.record import CrossMeasurement, Header, Measurement, RecordData
from vdit_attention.vdit_core.selection import parse_heads, parse_selection, write_layers

GRID = TokenGrid(3, 5, 7, 2, 1)
HEADER = Header("Wan", 7, 4, GRID, 64, (1.0, 0.7, 0.3, 0.0))
LAYERS, HEADS = (0, 2, 3, 6), (0, 2, 3)
ALL = parse_selection("all", "steps")


def number(layer: int, step: int, branch: str, item: int) -> Tensor:
    """A different number for each head of each call, [3]."""
    base = 1.0 + layer + 0.1 * step + 0.01 * (branch == "cond") + 0.001 * item
    return base + torch.tensor([0.2, -0.3, 0.4]) * (1 + (layer == 3))


def measurement(layer: int, step: int, branch: str, item: int, **more: Tensor) -> Measurement:
    mine = number(layer, step, branch, item)
    maps = torch.rand(3, 3, 3), torch.rand(3, 3)
    fields = ("energy", "spatial_entropy", "temporal_entropy", "spatial_mass", "temporal_mass")
    each = {name: (n + 2) * mine / 10 for n, name in enumerate(fields)} | more
    measures = MapMeasures(*maps, mine, mine, mine, **each)
    name = f"blocks.{layer}.self_attn"
    return Measurement(name, layer, step, 0, 0.5, branch, item, HEADS, measures)


def record(**more: Any) -> RecordData:
    calls = [
        (layer, step, branch, item)
        for step in (0, 2)
        for layer in LAYERS
        for branch in ("cond", "uncond")
        for item in (0, 1)
    ]
    return RecordData(HEADER, tuple(measurement(*call, **more) for call in calls))


def mean(layer: int, step: int, branches: tuple[str, ...] = ("cond", "uncond")) -> Tensor:
    """What the record holds of a layer at a step, mean of its calls, [3]."""
    calls = [number(layer, step, branch, item) for branch in branches for item in (0, 1)]
    return torch.stack(calls).double().mean(0)


SCALES = {
    "entropy share": 100 / math.log(len(GRID)),
    "entropy": 1.0,
    "energy": 0.2,
    "spatial entropy share": 0.3 * 100 / math.log(35),
    "temporal entropy share": 0.4 * 100 / math.log(3),
    "spatial mass": 50.0,
    "temporal mass": 60.0,
}


@pytest.mark.parametrize("name", SCALES)
def test_levels_are_means_of_the_calls_in_their_units(name: str) -> None:
    levels = levels_of(record(), name, ALL, "both")
    assert (levels.layers, levels.heads, levels.steps) == (LAYERS, HEADS, (0, 2))
    wanted = torch.stack(
        [torch.stack([mean(layer, step) for step in (0, 2)], -1) for layer in LAYERS]
    )
    torch.testing.assert_close(levels.values, SCALES[name] * wanted, rtol=1e-6, atol=0)
    assert levels.calls == "steps 0, 2, cond and uncond, 2 videos"
    assert float(levels.proportions.sum()) == pytest.approx(100)


def test_a_step_and_a_branch_can_be_chosen() -> None:
    levels = levels_of(record(), "entropy", parse_selection("2", "steps"), "uncond")
    wanted = torch.stack([mean(layer, 2, ("uncond",)) for layer in LAYERS])
    torch.testing.assert_close(levels.by_head, wanted, rtol=1e-6, atol=0)


def test_energy_proportions_add_up_at_each_step() -> None:
    levels = levels_of(record(), "energy proportion", ALL, "both")
    torch.testing.assert_close(levels.values.sum((0, 1)), torch.full((2,), 100.0).double())
    whole = torch.stack([mean(layer, 0) for layer in LAYERS])
    torch.testing.assert_close(levels.values[..., 0], 100 * whole / whole.sum(), rtol=1e-6, atol=0)


def test_the_attention_to_the_text_is_read_where_it_is_outside() -> None:
    data = record()
    mass = torch.full((3, 12), 1 / 12)
    cross = tuple(
        CrossMeasurement(
            f"blocks.{m.layer}.cross_attn",
            m.layer,
            m.step,
            m.evaluation,
            m.sigma,
            m.branch,
            m.item,
            m.heads,
            TextMeasures(mass, m.measures.entropy / 4),
        )
        for m in data.measurements
    )
    levels = levels_of(replace(data, cross=cross), "text entropy share", ALL, "both")
    wanted = mean(6, 2) / 4 * 100 / math.log(12)
    torch.testing.assert_close(levels.values[-1, :, 1], wanted, rtol=1e-6, atol=0)


def test_a_head_without_a_number_is_left_out_of_means_and_shares() -> None:
    none = torch.tensor([1.0, math.nan, 3.0])
    levels = levels_of(record(spatial_entropy=none), "spatial entropy share", ALL, "both")
    assert bool(levels.values[:, 1].isnan().all()) and bool(levels.by_layer.isfinite().all())
    assert all(2 not in heads for heads in levels.share(1.0, "high", "heads").values())
    assert draw_entropy(levels, 0.5, "heads").image.isfinite().all()


@pytest.mark.parametrize(
    ("share", "granularity", "high", "low", "layers"),
    [
        (0.5, "layers", "3,6:*", "0,2:*", ("3,6", "0,2")),
        (0.25, "layers", "6:*", "0:*", ("6", "0")),
        (0.0, "layers", "none", "none", ("none", "none")),
        (0.25, "heads", "6:!1", "0:!1", ("6", "0")),
    ],
)
def test_shares_are_texts_that_other_nodes_read(
    share: float, granularity: str, high: str, low: str, layers: tuple[str, str]
) -> None:
    drawn = draw_entropy(levels_of(record(), "entropy", ALL, "both"), share, granularity)
    assert (drawn.high, drawn.low) == (high, low)
    assert (drawn.high_layers, drawn.low_layers) == layers
    assert set(parse_heads(drawn.high).resolve((4,) * 7)) <= {*LAYERS}
    assert set(parse_selection(drawn.low_layers, "layers").resolve(7)) <= {*LAYERS}


def test_report_and_csv_hold_every_number() -> None:
    levels = levels_of(record(), "entropy share", ALL, "both")
    drawn = draw_entropy(levels, 0.5, "layers")
    rows = list(csv.DictReader(io.StringIO(drawn.table.csv())))
    assert len(rows) == len(LAYERS) * len(HEADS) * 2
    last = rows[-1]
    assert (last["layer"], last["head"], last["step"], last["share"]) == ("6", "3", "2", "high")
    assert float(last["entropy share (%)"]) == pytest.approx(float(levels.values[-1, -1, -1]))
    assert "highest 50 % of the layers: 3,6:*" in drawn.report
    assert "layers 1, 4-5 were not captured and are not ranked" in drawn.report
    assert "heads 0, 2-3 of 4 were captured" in drawn.report


@pytest.mark.parametrize("granularity", ["layers", "heads"])
@pytest.mark.parametrize("name", [name for name in QUANTITIES if name != "text entropy share"])
def test_every_quantity_is_drawn_the_same_each_time(name: str, granularity: str) -> None:
    levels = levels_of(record(), name, ALL, "both")
    image = draw_entropy(levels, 0.5, granularity).image
    assert image.ndim == 4 and image.shape[-1] == 3 and 0 <= image.min() <= image.max() <= 1
    assert torch.equal(image, draw_entropy(levels, 0.5, granularity).image)
    other = draw_entropy(levels, 0.25, granularity).image
    assert other.shape != image.shape or not torch.equal(image, other)


def test_layers_are_written_as_they_are_read() -> None:
    for layers in ({0, 1, 2}, {0, 1, 3, 4, 5, 6}, {2, 5}, set(range(7)), set[int]()):
        text = write_layers(layers, 7)
        assert parse_selection(text, "layers").resolve(7) == tuple(sorted(layers)), text


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"name": "heat"}, "quantity: got 'heat', allowed are entropy share"),
        ({"branch": "other"}, "branch: got 'other', allowed are both"),
        ({"steps": parse_selection("1", "steps")}, "captured were steps 0, 2, cond and uncond"),
        ({"name": "text entropy share"}, "turn on text on VDiT Capture"),
    ],
)
def test_what_is_not_there_is_said(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        levels_of(record(), **({"name": "entropy", "steps": ALL, "branch": "both"} | asked))


def test_missing_switches_and_wrong_shares_are_named() -> None:
    bare = record(**dict.fromkeys(("energy", "spatial_mass"), None))  # pyright: ignore
    for name in ("energy", "spatial mass"):
        with pytest.raises(ValueError, match="was not captured; turn on energy on VDiT Capture"):
            levels_of(bare, name, ALL, "both")
    with pytest.raises(ValueError, match="it holds no calls"):
        levels_of(RecordData(HEADER, ()), "entropy", ALL, "both")
    levels = levels_of(record(), "entropy", ALL, "both")
    with pytest.raises(ValueError, match=r"share: got 1.5, allowed is 0 to 1"):
        draw_entropy(levels, 1.5, "layers")
    with pytest.raises(ValueError, match="granularity: got 'tokens', allowed are layers, heads"):
        draw_entropy(levels, 0.5, "tokens")
