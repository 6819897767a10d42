"""A record that goes on with another: steps, noise levels, grids are joined, or it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vdit_attention.vdit_core.attention import MapMeasures
from vdit_attention.vdit_core.continuing import joined
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.operands import Operands
from vdit_attention.vdit_core.program import Asker, Capture
from vdit_attention.vdit_core.record import (
    Header,
    Measurement,
    Record,
    RecordData,
    load_record,
    save_record,
)
from vdit_attention.vdit_core.run import Run
from vdit_attention.vdit_core.selection import parse_selection, parse_where
from vdit_attention.vdit_core.sites import Layout, Site
from vdit_attention.vdit_core.steps import Schedule

GRID = TokenGrid(1, 2, 3)
SITE = Site("blocks.0.self_attn", 0, "self", 2)
LAYOUT = Layout("Wan", {nn.Identity(): (SITE,)}, lambda *_: GRID)
HIGH, LOW = (1.0, 0.9, 0.75), (0.75, 0.5, 0.25, 0.0)
FIRST = Header("Wan", 1, 2, GRID, 64, HIGH, None, 0.3, 0.5)


def capture(earlier: Record | None, **settings: Any) -> Capture:
    where, steps = parse_where("all", "all"), parse_selection("all", "steps")
    return Capture(Asker("Low"), where, steps, Record(), earlier=earlier, **settings)


def measurement(step: int, sigma: float, grid: TokenGrid | None = None) -> Measurement:
    measures = MapMeasures(*(torch.rand(2, *shape) for shape in ((3, 3), (3,), (), (), ())))
    return Measurement(SITE.name, 0, step, 0, sigma, "cond", 0, (0, 1), measures, grid)


def first_record(**changed: Any) -> Record:
    found = tuple(measurement(step, sigma) for step, sigma in enumerate(HIGH[:-1]))
    return Record(RecordData(replace(FIRST, **changed), found))


def start(watch: Capture, sigmas: tuple[float, ...] = LOW) -> Run:
    return Run((watch,), LAYOUT, Schedule(sigmas, lambda percent: 1 - percent), 1)


def play(run: Run) -> None:
    def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        return v

    x = torch.ones(1, 2, 6, 4)
    for sigma in run.schedule.sigmas[:-1]:
        run.clock.evaluate(sigma)
        call = run.call(SITE, ("cond",), (0,))
        run.attend(call, Operands(x, x, x, None, None, dense, lambda: GRID))
    run.finish()


def test_steps_are_counted_over_both_and_every_one_has_its_noise_level() -> None:
    first = first_record()
    watch = capture(first)
    run = start(watch)
    play(run)
    data = watch.record.data
    assert data.header == replace(FIRST, sigmas=(1.0, 0.9, 0.75, 0.5, 0.25, 0.0))
    assert [m.step for m in data.measurements] == [0, 1, 2, 3, 4]
    assert [m.sigma for m in data.measurements] == [*data.header.sigmas[:-1]]
    assert data.measurements[:2] == first.data.measurements
    assert len(first.data.measurements) == 2
    [(_, line)] = run.reports()
    assert line == "measured 3 calls of 1 layers; its steps follow 2 of the record before"


def test_a_second_run_holds_the_first_record_once() -> None:
    watch = capture(first_record())
    for _ in range(2):
        play(start(watch))
    assert [m.step for m in watch.record.data.measurements] == [0, 1, 2, 3, 4]


def test_a_third_goes_on_with_the_second() -> None:
    second = capture(first_record())
    play(start(second, LOW[:2]))
    third = capture(second.record)
    play(start(third, LOW[1:]))
    assert [m.step for m in third.record.data.measurements] == [0, 1, 2, 3, 4]
    assert third.record.data.header.sigmas == (*HIGH[:-1], *LOW)


def test_sequences_of_other_lengths_keep_their_grids() -> None:
    other = TokenGrid(1, 2, 3, suffix=4)
    second = RecordData(
        replace(FIRST, grid=other, sigmas=LOW), (measurement(0, 0.75), measurement(1, 0.5, GRID))
    )
    both = joined(first_record().data, second)
    grids = [both.header_of(m).grid for m in both.measurements]
    assert grids == [GRID, GRID, other, GRID]


def test_it_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    watch = capture(first_record())
    play(start(watch))
    save_record(watch.record.data, tmp_path / "both.safetensors")
    back = load_record(tmp_path / "both.safetensors")
    assert back.header == watch.record.data.header
    assert [(m.step, m.sigma) for m in back.measurements] == [
        (m.step, m.sigma) for m in watch.record.data.measurements
    ]


@pytest.mark.parametrize(
    ("changed", "settings", "message"),
    [
        ({"family": "Mochi"}, {}, "the model is Wan with 1 layers of 2 heads, but Mochi with 1"),
        ({"layers": 40}, {}, "the model is Wan with 1 layers of 2 heads, but Wan with 40 layers"),
        ({"heads": 12}, {}, "the model is Wan with 1 layers of 2 heads, but .* of 12 heads"),
        ({}, {"map_size": 32}, "map_size is 32, but 64"),
        ({}, {"tau": 0.5}, "tau is 0.5, but 0.3"),
        ({}, {"rate": 0.7}, "rate is 0.7, but 0.5"),
        ({"window": (0, 0)}, {}, "frames is all, but 0-0"),
        ({"sigmas": (1.0, 0.9, 0.0)}, {}, "ends at noise level 0, this sampling begins at 0.75; t"),
        ({"sigmas": (1.0, 0.9, 0.8)}, {}, "0.8, .* the same steps, scheduler and shift"),
    ],
)
def test_what_does_not_go_on_is_refused_before_sampling(
    changed: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^Low: .*{message}"):
        start(capture(first_record(**changed), **settings))


def test_noise_levels_may_differ_by_rounding() -> None:
    start(capture(first_record(sigmas=(1.0, 0.9, 0.75 * (1 + 1e-6)))))


def test_another_video_is_refused_before_sampling() -> None:
    run = start(capture(first_record(grid=TokenGrid(2, 2, 3))))
    with pytest.raises(ValueError, match="Low: the video is 1 frames of 2 × 3 tokens, but 2 fram"):
        run.check_latent((1, 16, 1, 2, 3))


def test_a_record_that_is_not_there_yet_is_refused() -> None:
    with pytest.raises(ValueError, match="Low: the record it goes on with holds nothing yet; conn"):
        start(capture(Record()))


def test_a_record_that_this_sampling_fills_is_refused_and_kept() -> None:
    high = capture(None)
    play(start(high, HIGH))
    low = capture(high.record)
    with pytest.raises(ValueError, match="Low: the record it goes on with comes from a capture on"):
        Run((high, low), LAYOUT, Schedule(LOW, lambda percent: 1 - percent), 1)
    assert len(high.record.data.measurements) == 2
