"""Schedules from output errors: planted layers, targets kept, text that reads back, agreement."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.agreement import changes_by_layer, spearman
from vdit_attention.vdit_core.attention import RATES, MapMeasures, measure
from vdit_attention.vdit_core.figures import SensitivityFigure, draw_sensitivity
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import AttentionPlan, Threshold
from vdit_attention.vdit_core.record import Header, Measurement, RecordData
from vdit_attention.vdit_core.selection import parse_selection, parse_values, values_text

LAYERS, HEADS, GRID = 6, 2, TokenGrid(3, 5, 7)
STEEP = (0.2, 0.3, 2.0, 0.1, 0.25, 3.0)  # layers 2 and 5 are planted sensitive
CURVE = torch.tensor([[0.2, 0.6, 0.9], [0.98, 0.9, 0.6]])


def planted(layer: int, factor: float = 1.0) -> MapMeasures:
    """A layer whose error is STEEP · rate² · factor of its output; its heads differ in size."""
    of_layer = factor * STEEP[layer] * torch.tensor(RATES) ** 2
    norm = torch.tensor([3.0, 4.0])  # 5 together
    error = torch.stack([0.6 * 5 * of_layer, 0.8 * 5 * of_layer])
    flat = torch.zeros(HEADS)
    maps = torch.zeros(HEADS, 4, 4), torch.zeros(HEADS, 4)
    return MapMeasures(*maps, flat, flat, flat, output_error=error, output_norm=norm)


def record(layers: range = range(LAYERS), **more: object) -> RecordData:
    """Steps 0 and 2, cond and uncond; the errors at step 2 are three times those at step 0."""
    header = Header("Wan", LAYERS, HEADS, GRID, 4, (1.0, 0.8, 0.5, 0.0))
    found = [
        Measurement(f"blocks.{n}", n, step, 0, 0.5, branch, 0, (0, 1), planted(n, factor))
        for step, factor in ((0, 0.5), (2, 1.5))
        for branch in ("cond", "uncond")
        for n in layers
    ]
    return RecordData(header, tuple(replace(m, **more) for m in found))  # pyright: ignore


def draw(data: RecordData | None = None, **asked: object) -> SensitivityFigure:
    chosen = {"target": "rate", "rate": 0.7, "limit": 0.5, "mass_lost": 0.1, "branch": "both"}
    step = parse_selection(str(asked.pop("step", "all")), "steps")
    return draw_sensitivity(data or record(), step=step, **(chosen | asked))  # pyright: ignore


def rates_of(schedule: str, default: float = 0.0) -> list[float]:
    return [*parse_values(schedule).resolve(LAYERS, default)]


def test_sensitive_layers_are_spared_and_only_they() -> None:
    found = draw()
    assert found.schedule == "all=0.7; 2,5=0"
    assert found.error == pytest.approx(
        0.49 * sum(STEEP[n] for n in (0, 1, 3, 4)) / LAYERS, rel=1e-5
    )
    assert "spares layers 2, 5" in found.report
    assert draw(limit=1.0).schedule == "all=0.7; 5=0"
    assert draw(limit=0.0).schedule == "all=0"


@pytest.mark.parametrize("limit", [0.02, 0.1, 0.35])
def test_rates_keep_every_error_at_the_limit_and_no_more_would(limit: float) -> None:
    for layer, rate in enumerate(rates_of(draw(target="error", limit=limit).schedule)):
        exact = math.sqrt(limit / STEEP[layer])
        assert rate <= min(exact, RATES[-1]) + 1e-9, "the error would exceed the limit"
        near = [r for r in (0.0, *RATES) if r <= exact][-1]
        assert rate >= round(near, 2) - 1e-9, "a measured rate below the limit was not used"


def test_rates_keep_the_mass_lost() -> None:
    """Against maps in float64: dropping each head at the rate loses the mass asked for."""
    generator = torch.Generator().manual_seed(0)
    scores = (
        torch.randn(1, HEADS, 105, 105, generator=generator)
        * torch.tensor([1.0, 2.5])[None, :, None, None]
    )
    eye = torch.eye(105).expand(1, HEADS, 105, 105)
    curve = measure(scores, eye, wants="mass_curve", scale=1.0)["mass_curve"][0]
    one = replace(planted(3), mass_curve=curve)
    found = draw(record(range(3, 4), measures=one), target="mass lost", mass_lost=0.2)
    rate = rates_of(found.schedule)[3]
    maps = scores[0].double().softmax(-1).flatten(1).sort(-1).values
    lost = (maps[:, : int(rate * maps.shape[1])].sum(-1) / 105).mean()
    assert float(lost) == pytest.approx(0.2, abs=0.02)
    assert found.schedule == f"3={rate:g}"
    assert "layers 0-2, 4-5 were not captured" in found.report
    with pytest.raises(ValueError, match="turn on sparsity on VDiT Capture"):
        draw(target="mass lost")


def test_averages_are_over_all_captured_calls_unless_chosen() -> None:
    columns = ("error at 0.7", "predicted error")

    def error(**asked: object) -> float:
        table = draw(**asked).table
        return float(table.rows[0][[*table.columns].index(columns[0])])  # pyright: ignore

    assert error() == pytest.approx(0.49 * STEEP[0], rel=1e-5)
    assert error(step="0") == pytest.approx(0.5 * 0.49 * STEEP[0], rel=1e-5)
    assert error(step="2", branch="cond") == pytest.approx(1.5 * 0.49 * STEEP[0], rel=1e-5)
    assert "steps 0, 2, cond and uncond" in draw().report


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({0: 0.7, 1: 0.7, 2: 0, 3: 0.7, 4: 0.7, 5: 0}, "all=0.7; 2,5=0"),
        ({0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5, 5: 0.5}, "all=0.5"),
        ({0: 0.1, 1: 0.1, 2: 0.25, 3: 0.25, 4: 0.25, 5: 0.1}, "all=0.1; 2-4=0.25"),
        ({1: 0.33, 4: 0}, "1=0.33; 4=0"),
        ({0: 0.81, 1: 0, 2: 0.5, 3: 0.07, 4: 0.95, 5: 0.4}, None),
    ],
)
def test_a_schedule_reads_back_and_is_short(values: dict[int, float], text: str | None) -> None:
    written = values_text(values, LAYERS)
    assert text is None or written == text
    read = rates_of(written, default=-1)
    assert {n: v for n, v in enumerate(read) if v >= 0} == values


def test_rank_correlation_is_that_of_the_ranks() -> None:
    values = [0.3, 0.1, 0.9, 0.4]
    assert spearman(values, [3, 1, 9, 4]) == pytest.approx(1)
    assert spearman(values, [-v for v in values]) == pytest.approx(-1)
    for order in permutations(range(4)):  # without ties: 1 − 6 Σ d² / n (n² − 1)
        ranks = [sorted(values).index(v) for v in values]
        squares = sum((a - b) ** 2 for a, b in zip(ranks, order, strict=True))
        assert spearman(values, order) == pytest.approx(1 - 6 * squares / 60)
    assert spearman([1, 2, 2, 3], [1, 2.5, 2.5, 9]) == pytest.approx(1)
    assert math.isnan(spearman([1, 2, 3], [5, 5, 5]))


def test_a_sweep_is_compared_by_rank_and_its_other_columns_do_not_matter() -> None:
    order = sorted(range(LAYERS), key=lambda n: STEEP[n])
    lines = [f"layer {n},{n},0,{order.index(n) + 1.5},0.9,x" for n in range(LAYERS)]
    csv = "\n".join(["label,layer,rank,change,SSIM,more", "none,,,0.0,1,x", *lines])
    found = draw(sweep=csv)
    assert "+1.000 over 6 layers" in found.report
    assert found.table.columns[-1] == "change in the sweep"
    assert [row[-1] for row in found.table.rows] == [order.index(n) + 1.5 for n in range(LAYERS)]
    assert found.image.shape[2] > draw().image.shape[2], "the plot is missing"
    some = changes_by_layer("layer , change\n3,1\n3,2\n1,0.5\n0,4\n2-4,9\n", LAYERS)
    assert some == {0: 4, 1: 0.5, 3: 1.5}


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("", "no column layer and no column change, only an empty text"),
        ("label,rank,PSNR\na,1,2", "no column layer and no column change, only label, rank, PSNR"),
        ("layer,change\n0,1\n1,2", "2 single layers with a change, but .* needs 3"),
        ("layer,change\n0,1\n1,2\n9,2", "names layer 9, but the record's model has layers 0 to 5"),
        ("layer,change\n0,1\n1,much\n2,2", "the change of layer 1 is 'much', which is no number"),
    ],
)
def test_a_text_that_is_no_sweep_is_refused_in_words(sweep: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(sweep=sweep)


def test_a_sweep_of_other_layers_is_refused() -> None:
    csv = "layer,change\n0,1\n1,2\n2,3"
    with pytest.raises(ValueError, match="share layers 2 only"):
        draw(record(range(2, 5)), sweep=csv)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"target": "beauty"}, "allowed are rate, error, mass lost"),
        ({"rate": 0.97}, "rate: got 0.97, allowed is above 0 and up to 0.95"),
        ({"limit": -0.1}, "limit: got -0.1, allowed is 0 to 1"),
        ({"step": "1"}, "captured were steps 0, 2, cond and uncond"),
        ({"step": "7"}, "steps: '7' names step 7"),
        ({"branch": "sideways"}, "allowed are both, cond, uncond"),
    ],
)
def test_what_was_not_measured_is_refused_in_words(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(**asked)


def test_a_record_without_the_switch_names_it() -> None:
    bare = replace(planted(0), output_error=None, output_norm=None)
    with pytest.raises(ValueError, match="turn on sensitivity on VDiT Capture"):
        draw(record(measures=bare))


@pytest.mark.parametrize("layers", [1, 60])
def test_any_number_of_layers_fits_and_the_same_numbers_give_the_same_picture(layers: int) -> None:
    header = replace(record().header, layers=layers)
    many = RecordData(
        header, tuple(replace(record().measurements[n % LAYERS], layer=n) for n in range(layers))
    )
    first, second = draw(many, target="error"), draw(many, target="error")
    assert torch.equal(first.image, second.image)
    edges: list[Tensor] = [first.image[:, :, -4:], first.image[:, -4:]]
    assert all(bool((edge == 1).all()) for edge in edges), "something runs over the edge"


def test_rates_are_ones_that_a_plan_takes() -> None:
    for target in ("rate", "error"):
        rates = torch.tensor(rates_of(draw(target=target).schedule))
        assert bool(((rates >= 0) & (rates < 1)).all())
        AttentionPlan(threshold=Threshold(rates[None]))
