"""The pictures and tables of VDiT Statistics: right numbers, right places, clear refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.attention import (
    ALWAYS_KEPT,
    MORE_KEPT,
    PROBED,
    RATES,
    TEMPERATURES,
    MapMeasures,
    measure,
    probe,
)
from vdit_attention.vdit_core.figures import STATISTICS, Statistics, draw_statistic
from vdit_attention.vdit_core.figures.colours import span
from vdit_attention.vdit_core.figures.heat_sheet import short
from vdit_attention.vdit_core.figures.quantities import QUANTITIES, Curve
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.measures.mass_curve import mass_kept
from vdit_attention.vdit_core.plan import UNTOUCHED
from vdit_attention.vdit_core.record import Header, Measurement, RecordData
from vdit_attention.vdit_core.selection import parse_selection

GRID = TokenGrid(3, 5, 7)
KEYS, HEADS, RATE = len(GRID), 3, 0.6
HEAT = [name for name, asked in QUANTITIES.items() if not isinstance(asked, Curve)]
SWITCHES = MORE_KEPT | PROBED
CURVES = [name for name in STATISTICS if name not in HEAT]


def scores(layer: int) -> Tensor:
    """[1, HEADS, KEYS, KEYS], sharper from head to head."""
    generator = torch.Generator().manual_seed(layer)
    made = torch.randn(1, HEADS, KEYS, KEYS, generator=generator)
    return made * torch.tensor([0.5, 1.5, 3.0]).view(1, HEADS, 1, 1)


def measured(layer: int) -> MapMeasures:
    """Everything a capture can measure: the scores are planted with K the identity."""
    wants = [*ALWAYS_KEPT, *(name for more in MORE_KEPT.values() for name in more)]
    keys = torch.eye(KEYS).expand(1, HEADS, KEYS, KEYS)
    asked = {"spans": {"text": slice(0, 4)}, "map_size": 6, "tau": 0.1, "rate": RATE, "scale": 1.0}
    found = measure(scores(layer), keys, keys, wants=wants, grid=GRID, **asked)
    probed: dict[str, Tensor] = {}
    for what in PROBED:
        heads = torch.arange(HEADS)
        qkv = scores(layer), keys, keys, UNTOUCHED
        probed |= probe(what, *qkv, rows=[0], heads=heads, scale=1.0)
    return MapMeasures.of(found, 0, probed)


def one(layer: int, measures: MapMeasures, heads: tuple[int, ...], item: int = 0) -> Measurement:
    name = f"blocks.{layer}.self_attn"
    return Measurement(name, layer, 1, 0, 0.5, "cond", item, heads, measures)


@pytest.fixture(scope="module")
def data() -> RecordData:
    """Layers 1 and 4 of six."""
    header = Header("Wan", 6, HEADS, GRID, 6, (1.0, 0.5, 0.0), None, 0.1, RATE)
    return RecordData(header, tuple(one(n, measured(n), (0, 1, 2)) for n in (1, 4)))


def draw(data: RecordData, statistic: str, step: str = "mid", item: int = 0) -> Statistics:
    chosen = parse_selection(step, "steps")
    return draw_statistic(data, statistic=statistic, step=chosen, branch="both", item=item)


def table(report: str) -> dict[int, list[float]]:
    """The lines of a report that begin with a layer."""
    rows = [line.split() for line in report.splitlines()[4:]]
    return {int(row[0]): [float(value) for value in row[1:]] for row in rows}


def truth(statistic: str, layer: int) -> Tensor:
    """One number per head, from the whole maps in float64."""
    maps = scores(layer)[0].double().softmax(-1)
    frame, place = torch.arange(KEYS) // 35, torch.arange(KEYS) % 35
    apart = (frame[:, None] - frame).abs().double()
    across = GRID.distances()[place[:, None], place].double()
    least = maps.flatten(1).sort(-1).values
    threshold = least[:, int(RATE * KEYS * KEYS)]
    below = maps * (maps < threshold[:, None, None])
    return {
        "entropy share": 100 * torch.special.entr(maps).sum(-1).mean(-1) / math.log(KEYS),
        "coverage": 100 * (maps >= 0.1).double().mean(1).amax(-1),
        "largest weight": 100 * maps.amax(-1).mean(-1),
        "value norm ratio": torch.ones(HEADS),
        "threshold": threshold.log10(),
        "mass lost at rate": 100 * below.sum((1, 2)) / KEYS,
        "realised rate": 100 * (below > 0).double().mean((1, 2)),
        "keys for 95 %": 100 * _keys_for_95(maps),
        "mean frame distance": (maps * apart).sum(-1).mean(-1),
        "mean spatial distance": (maps * across).sum(-1).mean(-1),
    }[statistic]


def _keys_for_95(maps: Tensor) -> Tensor:
    held = maps.sort(-1, descending=True).values.cumsum(-1)
    return ((held < 0.95).sum(-1) + 1).double().mean(-1) / KEYS


@pytest.mark.parametrize("statistic", HEAT)
def test_a_table_holds_mean_least_and_largest_head(statistic: str, data: RecordData) -> None:
    rows = table(draw(data, statistic).report)
    assert list(rows) == [1, 4]
    for layer, row in rows.items():
        exact = truth(statistic, layer)
        wanted = [exact.mean().item(), exact.min().item(), exact.max().item()]
        assert row == pytest.approx(wanted, rel=2e-3, abs=1e-3)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_every_statistic_is_a_picture_and_the_same_each_time(
    statistic: str, data: RecordData
) -> None:
    first, second = draw(data, statistic), draw(data, statistic)
    assert torch.equal(first.image, second.image) and first.report == second.report
    assert first.image.shape[0] == 1 and first.image.shape[3] == 3
    assert bool((first.image[:, :, -4:] == 1).all()), "something runs over the edge"
    assert bool((first.image[:, -4:] == 1).all())


@pytest.mark.parametrize("statistic", STATISTICS[1:])
def test_what_was_not_captured_names_the_switch(statistic: str, data: RecordData) -> None:
    bare = dict.fromkeys((name for more in SWITCHES.values() for name in more), None)
    less = tuple(replace(m, measures=replace(m.measures, **bare)) for m in data.measurements)
    (switch,) = [s for s, names in SWITCHES.items() if QUANTITIES[statistic].needs in names]
    with pytest.raises(ValueError, match=f"was not captured; turn on {switch} on VDiT Capture"):
        draw(replace(data, measurements=less), statistic)
    assert draw(replace(data, measurements=less), "entropy share").report


def test_unknown_names_and_steps_are_refused_in_words(data: RecordData) -> None:
    with pytest.raises(ValueError, match="got 'beauty', allowed are entropy share, coverage"):
        draw(data, "beauty")
    with pytest.raises(ValueError, match="captured were layers 1, 4, steps 1"):
        draw(data, "coverage", step="0")


def test_the_brightest_cell_is_the_largest_head(data: RecordData) -> None:
    """Head 2 is planted sharp, so its largest weights are; head 0 is nearly flat."""
    light = draw(data, "largest weight").image[0, 158:286, 96:426].mean(-1)  # two rows of cells
    cells = light.view(2, 64, 3, 110)[:, 8:16, :, 8:102].mean((1, 3))
    assert bool((cells[:, 2] > cells[:, 1]).all() and (cells[:, 1] > cells[:, 0]).all())


def test_heads_that_were_not_captured_stay_grey(data: RecordData) -> None:
    first, last = data.measurements
    some = replace(last, heads=(2, 3, 5))
    drawn = draw(replace(data, measurements=(first, some)), "entropy share")
    corner = drawn.image[0, 158 + 70, 96 + 8]  # layer 4, head 0
    assert corner.tolist() == pytest.approx([0.5, 0.5, 0.5], abs=0.01)
    assert len(table(drawn.report)) == 2


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (60, 40)])
def test_any_number_of_layers_and_heads_fits(layers: int, heads: int, data: RecordData) -> None:
    measures = data.measurements[0].measures
    known = {k: v for k, v in vars(measures).items() if v is not None}
    wide = MapMeasures(**{k: v[:1].expand(heads, *v.shape[1:]) for k, v in known.items()})
    numbers = tuple(range(heads))
    header = replace(data.header, layers=layers, heads=heads)
    large = RecordData(header, tuple(one(n, wide, numbers) for n in range(layers)))
    for statistic in ("entropy share", "mass by frame distance"):
        image = draw(large, statistic).image
        assert max(image.shape[1:3]) < 1400
        assert bool((image[:, :, -4:] == 1).all())


def test_curves_are_tabled_at_some_places(data: RecordData) -> None:
    rows = table(draw(data, "mass by frame distance").report)
    mass = data.measurements[0].measures.frame_distance_mass
    assert mass is not None
    assert rows[1] == pytest.approx((100 * mass.mean(0)).tolist(), rel=1e-3)
    assert len(table(draw(data, "mass kept against rate").report)[4]) == 9
    assert len(table(draw(data, "mass by spatial distance").report)[4]) == 8


@pytest.mark.parametrize("statistic", ["coverage", "mass by frame distance"])
def test_the_table_for_papers_has_every_number_of_each_head(
    statistic: str, data: RecordData
) -> None:
    drawn, asked = draw(data, statistic), QUANTITIES[statistic]
    first = data.measurements[0]
    numbers = asked.read(data.header, first.measures)
    mine = [row for row in drawn.table.rows if row[3] == first.layer]
    assert [row[4] for row in mine[:: numbers[0].numel()]] == list(first.heads)
    assert [row[-1] for row in mine] == pytest.approx(numbers.flatten().tolist())


def test_entropy_against_temperature_is_that_of_the_scores_divided(data: RecordData) -> None:
    drawn = draw(data, "entropy against temperature").table
    for layer in (1, 4):
        divided = [scores(layer)[0].double() / t for t in TEMPERATURES]
        exact = [torch.special.entr(s.softmax(-1)).sum(-1).mean(-1) for s in divided]
        wanted = 100 * torch.stack(exact, -1) / math.log(KEYS)
        mine = [row[-1] for row in drawn.rows if row[3] == layer]
        assert mine == pytest.approx(wanted.flatten().tolist(), rel=1e-4)


def test_a_layers_output_error_is_that_of_its_heads_together(data: RecordData) -> None:
    """Not the mean of their shares: a head with a large output counts for more."""
    measures = data.measurements[0].measures
    assert measures.output_error is not None and measures.output_norm is not None
    norm = torch.tensor([10.0, 1.0, 1.0])
    uneven = replace(data.measurements[0], measures=replace(measures, output_norm=norm))
    drawn = draw(replace(data, measurements=(uneven,)), "output error against rate")
    wanted = measures.output_error.square().sum(0).sqrt() / math.sqrt(102)
    assert len(wanted) == len(RATES)
    assert table(drawn.report)[1] == pytest.approx((100 * wanted).tolist(), rel=1e-3)


def test_each_video_of_the_batch_has_its_own_numbers(data: RecordData) -> None:
    second = tuple(replace(m, item=1, layer=m.layer) for m in reversed(data.measurements))
    both = replace(data, measurements=data.measurements + second)
    assert "video 1" in draw(both, "coverage", item=1).report


def test_uniform_maps_lie_on_the_dashed_line(data: RecordData) -> None:
    flat = torch.zeros(1, HEADS, KEYS, KEYS)
    wants = [*ALWAYS_KEPT, *MORE_KEPT["structure"], *MORE_KEPT["sparsity"]]
    asked = flat, flat, flat, UNTOUCHED
    probed = probe("temperatures", *asked, rows=[0], heads=torch.arange(HEADS))
    found = MapMeasures.of(measure(flat, flat, wants=wants, grid=GRID, rate=RATE), 0, probed)
    for name in CURVES:
        curve = QUANTITIES[name]
        assert isinstance(curve, Curve)
        if curve.alike is None:
            continue
        dashed = curve.alike(data.header).expand(HEADS, -1)
        torch.testing.assert_close(
            curve.read(data.header, found), dashed, rtol=0, atol=0.05, check_dtype=False
        )


@pytest.mark.parametrize("layer", [1, 4])
def test_mass_kept_between_the_measured_points_is_near_the_truth(
    layer: int, data: RecordData
) -> None:
    maps = scores(layer)[0].double().softmax(-1).flatten(1).sort(-1).values
    curve = measured(layer).mass_curve
    assert curve is not None
    rates = torch.linspace(0, 1, 51, dtype=torch.float64)
    for head in range(HEADS):
        exact = torch.tensor([1 - maps[head, : int(r * maps.shape[1])].sum() / KEYS for r in rates])
        torch.testing.assert_close(
            mass_kept(curve[head], rates), exact.double(), rtol=0, atol=0.015
        )


def test_a_scale_fits_its_numbers_without_blowing_up_small_differences() -> None:
    scale = span(torch.tensor([-4.0, -2.0, torch.nan, -torch.inf]))
    assert (scale.low, scale.high) == (-4, -2)
    assert scale.ticks() == pytest.approx([-4, -3.5, -3, -2.5, -2])
    narrow = span(torch.tensor([70.0, 70.001]))
    assert narrow.high - narrow.low == pytest.approx(7, rel=1e-3)
    assert (span(torch.zeros(3)).low, span(torch.zeros(3)).high) == (-0.5, 0.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.001, "0.00"),
        (0.001, "<0.01"),
        (-2.5, "−2.50"),
        (55.04, "55.0"),
        (100, "100"),
        (1_811_723.0, "1.8e6"),
        (-2.5e11, "−2.5e11"),
    ],
)
def test_numbers_in_cells_are_short(value: float, text: str) -> None:
    assert short(value) == text
