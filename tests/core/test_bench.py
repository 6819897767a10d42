"""The benchmark: its arithmetic on made-up numbers, and its shape from tiny runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from vdit_attention.benchmarks.bench import __main__ as command
from vdit_attention.benchmarks.bench.cases import (
    NO_FLEX,
    Case,
    LeftOut,
    alone_cases,
    find_case,
    main_cases,
)
from vdit_attention.benchmarks.bench.goals import GOALS, Goal, judged, verdict
from vdit_attention.benchmarks.bench.peaks import cpu_peak_mb
from vdit_attention.benchmarks.bench.problem import Shape
from vdit_attention.benchmarks.bench.rows import Report, Row, exponent, growths
from vdit_attention.benchmarks.bench.run import NO_GPU, run
from vdit_attention.benchmarks.bench.schedule import Budget, Schedule, Stage, make_schedule, shapes
from vdit_attention.benchmarks.bench.timing import Timing, interleaved
from vdit_attention.vdit_core.grid import TokenGrid

CPU = torch.device("cpu")
TINY = Shape(2, 16, TokenGrid(4, 4, 4))
ONCE = Budget(seconds=0, most=1)
STATISTICS, RATIO, MEMORY = "statistics", GOALS[4], GOALS[5]


def row(case: str, tokens: int, ratio: float = 2.0, memory: float | None = None) -> Row:
    shape = shapes(cuda=False, lengths=[tokens])[0]
    seconds = (tokens / 1024) ** 2
    return Row(case, "streaming", "cpu", "float32", shape, ratio, seconds, memory)


def tiny_report(cases: list[Case]) -> Report:
    stages = [Stage(case, (TINY,), memory=False) for case in cases]
    return run(Schedule(CPU, torch.float32, ONCE, stages), lambda _: None)


def test_the_ratio_is_the_case_over_sdpa() -> None:
    assert Timing(case=3.0, sdpa=1.5).ratio == 2


def test_times_in_turn_and_keeps_to_the_budget() -> None:
    calls: list[str] = []
    budget = Budget(seconds=60, most=3)
    took = interleaved(lambda: calls.append("case"), lambda: calls.append("sdpa"), budget, CPU)
    assert calls == ["sdpa", "case"] * 3
    assert took.case > 0 and took.sdpa > 0


def test_measures_once_even_without_time() -> None:
    calls: list[str] = []
    interleaved(lambda: calls.append("case"), lambda: None, Budget(0, 9), CPU)
    assert calls == ["case"]


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_growth_exponent_of_a_power(power: float) -> None:
    assert exponent([(x, 7 * x**power) for x in (1024, 2048, 8192)]) == pytest.approx(power)


def test_growth_exponent_is_the_least_squares_one() -> None:
    assert exponent([(1, 1), (2, 4), (4, 4)]) == pytest.approx(1)


@pytest.mark.parametrize("points", [[], [(1024, 3)], [(1024, 3), (1024, 4)]])
def test_no_growth_without_two_lengths(points: list[tuple[float, float]]) -> None:
    assert exponent(points) is None


def test_growth_of_the_growing_cases_only() -> None:
    rows = [row(STATISTICS, 1024, memory=0.0), row(STATISTICS, 4096, memory=16.0)]
    (growth,) = growths([*rows, row("choose blocks", 1024)])
    assert (growth.case, growth.lengths) == (STATISTICS, [1024, 4096])
    assert growth.time == pytest.approx(2) and growth.memory == pytest.approx(2)


@pytest.mark.parametrize(("value", "word"), [(3, "reached"), (5, "acceptable"), (5.1, "missed")])
def test_judges_what_should_be_small(value: float, word: str) -> None:
    assert judged(RATIO, value) == word


@pytest.mark.parametrize(("value", "word"), [(3.2, "reached"), (2.5, "acceptable"), (2, "missed")])
def test_judges_what_should_be_large(value: float, word: str) -> None:
    speed = next(goal for goal in GOALS if goal.quantity == "speed-up")
    assert judged(speed, value) == word


def test_a_verdict_takes_the_fastest_of_ours_at_the_goals_shape() -> None:
    torch_only = row(STATISTICS, 8192, ratio=0.1)
    torch_only.implementation = "torch"
    rows = [row(STATISTICS, 1024, 0.5), row(STATISTICS, 8192, 4), row(STATISTICS, 8192, 6)]
    assert verdict(RATIO, [*rows, torch_only], no_gpu=True) == "acceptable: 4"


def test_a_verdict_takes_the_worst_of_its_cases() -> None:
    goal = Goal("cpu", "float32", [1, 4, 8192, 64], (STATISTICS, "quantile"), "memory", 64, 256)
    rows = [row(STATISTICS, 8192, memory=10), row("quantile", 8192, memory=300)]
    assert verdict(goal, rows, no_gpu=True) == "missed: 300"


def test_a_verdict_without_its_number_is_unmeasured() -> None:
    assert verdict(GOALS[0], [], no_gpu=True) == "unmeasured (no GPU here)"
    assert verdict(GOALS[0], [], no_gpu=False) == "unmeasured"
    assert verdict(RATIO, [], no_gpu=True) == "unmeasured"
    assert verdict(MEMORY, [row(STATISTICS, 8192)], no_gpu=True) == "unmeasured"


def test_every_case_runs_here_but_flex() -> None:
    report = tiny_report([*main_cases(cuda=False), *alone_cases(cuda=False)])
    none, flex = report.left_out
    assert none == NO_GPU and flex.endswith(f"no row: {NO_FLEX}")
    assert {r.case for r in report.rows} >= {STATISTICS, "block90", "dense map", "text_mass"}


def test_triton_is_asked_for_on_a_gpu_only() -> None:
    assert not any(c.implementation == "triton" for c in main_cases(cuda=False))
    found = {
        c.name
        for c in [*main_cases(cuda=True), *alone_cases(cuda=True)]
        if c.implementation == "triton"
    }
    assert found >= {STATISTICS, "quantile", "block75", "choose blocks", "lse"}


def test_a_row_that_fails_costs_no_other() -> None:
    def refuse(_: object) -> object:
        raise LeftOut("too large")

    def crash(_: object) -> object:
        raise ValueError("unheard of")

    report = tiny_report([Case("a", "x", refuse), Case("b", "x", crash), find_case("sdpa")])
    assert [r.case for r in report.rows] == ["sdpa"]
    assert report.left_out[1].endswith("no row: too large")
    assert report.left_out[2].endswith("ValueError('unheard of')")


def test_a_row_that_would_take_too_long_is_left_out() -> None:
    stage = Stage(find_case("sdpa"), (TINY, Shape(2, 16, TokenGrid(4, 8, 8))), memory=False)
    impatient = Budget(seconds=0, most=1, longest=1e-9)
    report = run(Schedule(CPU, torch.float32, impatient, [stage]), lambda _: None)
    assert len(report.rows) == 1 and "would take about" in report.left_out[-1]


def test_shapes_of_the_goals_are_measured_in_quick_runs() -> None:
    stages = make_schedule(quick=True).stages
    measured = {s.case.name: s for s in stages}
    wanted = [goal for goal in GOALS if goal.device == "cpu"]
    if not torch.cuda.is_available():
        for goal in wanted:
            stage = measured[goal.cases[0]]
            assert stage.memory and stage.shapes[-1].axes == goal.axes


def test_memory_of_a_fresh_process_sees_a_dense_map() -> None:
    dense = cpu_peak_mb("dense map", shapes(cuda=False, lengths=[2048])[0])
    one = 4 * 2048**2 * 4 / 1e6
    assert one < dense < 4 * one


def test_leaves_json_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [find_case(name) for name in ("sdpa", STATISTICS, "flex75")]
    larger = Shape(2, 16, TokenGrid(4, 4, 8))
    stages = [Stage(case, (TINY, larger), memory=False) for case in cases]
    schedule = Schedule(CPU, torch.float32, ONCE, stages)
    monkeypatch.setattr(command, "make_schedule", lambda quick: schedule)
    file = tmp_path / "deep" / "bench.json"
    assert command.main(["--quick", "--json", str(file)]) == 0
    rows = json.loads(file.read_text("utf-8"))
    found = json.loads(file.with_name("bench_facts.json").read_text("utf-8"))
    assert list(found) == ["growth", "left_out", "facts"]
    assert list(rows[0]) == [
        *("case", "implementation", "device", "dtype", "shape"),
        *("ratio_to_sdpa", "extra_memory_mb"),
    ]
    assert rows[0]["shape"] == [1, 2, 64, 16]
    assert found["growth"][0]["lengths"] == [64, 128]
    assert found["facts"].keys() >= {"torch", "device", "threads", "date"}
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert said.count("unmeasured (no GPU here)") == (0 if torch.cuda.is_available() else 4)
    assert str(file) in said
