"""Carry out a schedule: time every row, then measure its memory in a run of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

import torch

from ..facts import processor
from .cases import Case, LeftOut
from .peaks import HOW, cpu_peak_mb, cuda_peak_mb
from .problem import Shape, make_problem
from .rows import Report, Row
from .schedule import Schedule, Stage, shapes
from .timing import interleaved

NO_GPU = "all rows of triton and of bfloat16: torch sees no CUDA GPU"

Say = Callable[[str], None]


def run(schedule: Schedule, say: Say) -> Report:
    """Rows of everything that can be measured here; what cannot is in the report in words."""
    report = Report(gather_facts(schedule.device))
    if schedule.device.type == "cpu":
        report.left_out.append(NO_GPU)
        say(NO_GPU)
    for stage in schedule.stages:
        _warm_up(schedule, stage)
        rows = _timed(schedule, stage, report, say)
        if stage.memory and rows and schedule.device.type == "cpu":
            _with_cpu_memory(stage.case, rows, report, say)
    return report


def gather_facts(device: torch.device) -> dict[str, Any]:
    """With what and when this was measured."""
    cuda = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if cuda else processor(),
        "threads": torch.get_num_threads(),
        "waiting": f"GOMP_SPINCOUNT={os.environ.get('GOMP_SPINCOUNT', 'not set')}",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "time": "the least of some repeats, in turn with scaled_dot_product_attention",
        "memory": HOW[device.type],
    }


def _warm_up(schedule: Schedule, stage: Stage) -> None:
    """Threads start and libraries load at a length that takes no time."""
    small = shapes(schedule.device.type == "cuda", [1024])[0]
    try:
        stage.case.prepare(make_problem(small, schedule.device, schedule.dtype))()
    except Exception:  # the first row meets the same problem and tells of it
        return


def _timed(schedule: Schedule, stage: Stage, report: Report, say: Say) -> list[Row]:
    rows: list[Row] = []
    for shape in stage.shapes:
        try:
            _check_time(schedule, shape, rows)
            row = _row(schedule, stage, shape)
        except Exception as problem:  # one row that fails must not cost the others
            reason = str(problem) if isinstance(problem, LeftOut) else repr(problem)
            _leave_out(stage.case, shape, f"row: {reason}", report, say)
            continue
        rows.append(row)
        report.rows.append(row)
        say(f"{_title(stage.case, shape)}  {row.ratio:8.2f} × sdpa")
    return rows


def _check_time(schedule: Schedule, shape: Shape, rows: list[Row]) -> None:
    likely = rows[-1].seconds * shape.work / rows[-1].shape.work if rows else 0.0
    if likely > schedule.budget.longest:
        raise LeftOut(f"one call would take about {likely:.0f} s")


def _row(schedule: Schedule, stage: Stage, shape: Shape) -> Row:
    device, case = schedule.device, stage.case
    if device.type == "cuda":
        torch.cuda.empty_cache()
    problem = make_problem(shape, device, schedule.dtype)
    work = case.prepare(problem)
    took = interleaved(work, problem.sdpa, schedule.budget, device)
    dtype = str(schedule.dtype).removeprefix("torch.")
    names = case.name, case.implementation, device.type, dtype
    row = Row(*names, shape, took.ratio, took.case)
    if stage.memory and device.type == "cuda":
        row.memory = cuda_peak_mb(work)
    return row


def _with_cpu_memory(case: Case, rows: list[Row], report: Report, say: Say) -> None:
    with ThreadPoolExecutor(2) as pool:  # starting takes longest; nothing is being timed now
        peaks = [pool.submit(cpu_peak_mb, case.name, row.shape) for row in rows]
    for row, peak in zip(rows, peaks, strict=True):
        try:
            row.memory = peak.result()
        except RuntimeError as problem:
            _leave_out(case, row.shape, f"memory: {problem}", report, say)
            continue
        say(f"{_title(case, row.shape)}  {row.memory:8.1f} MB")


def _leave_out(case: Case, shape: Shape, reason: str, report: Report, say: Say) -> None:
    line = f"{_title(case, shape)}  no {reason.splitlines()[0]}"
    report.left_out.append(" ".join(line.split()))
    say(line)


def _title(case: Case, shape: Shape) -> str:
    return f"{case.name:26} {case.implementation:12} {shape.heads:2}×{shape.tokens:,}"
