"""Time and memory of every statistic and sparse edit beside torch's own attention.

    python3 dev.py bench [--quick] [--json FILE]

It prints a table and the goals, and leaves the numbers as JSON with a picture of them beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from .goals import GOALS, verdict
from .plot import draw
from .rows import Report, Row, growths
from .run import run
from .schedule import make_schedule

DESCRIPTION = "Measure what statistics and sparse attention cost beside torch's own attention."


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="dev.py bench", description=DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="fewer lengths and repeats")
    parser.add_argument("--json", type=Path, default=Path("gallery/bench.json"), metavar="FILE")
    options = parser.parse_args(arguments)
    began, file = time.monotonic(), options.json.resolve()
    report = run(make_schedule(options.quick), lambda line: print(line, flush=True))
    report.facts["command"] = "python3 dev.py bench" + (" --quick" if options.quick else "")
    print(table(report))
    write(report, file)
    print(f"\n{file} and {file.with_suffix('.png').name}, {time.monotonic() - began:.0f} s in all")
    return 0 if report.rows else 1


def write(report: Report, file: Path) -> None:
    """The rows to this file; growth and facts, and the picture, beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    _write_json(report.rows_json(), file)
    _write_json(report.rest_json(), file.with_name(f"{file.stem}_facts.json"))
    draw(report, file.with_suffix(".png"))


def _write_json(content: object, file: Path) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text + "\n", "utf-8")
    partial.replace(file)


def table(report: Report) -> str:
    """Everything for a person."""
    lines = ["", f"{'case':26} {'implementation':15} {'shape':16} {'× sdpa':>8} {'extra MB':>9}"]
    lines += [_line(row) for row in report.rows]
    lines += ["", "growth with length L"]
    for growth in growths(report.rows):
        name = f"{growth.case:26} {growth.implementation:15}"
        lines.append(f"{name} time {_power(growth.time)}, memory {_power(growth.memory)}")
    if report.left_out:
        lines += ["", "left out", *report.left_out]
    lines += ["", *(f"{name}: {value}" for name, value in report.facts.items())]
    lines += ["", "goals (acceptable)"]
    no_gpu = not torch.cuda.is_available()
    return "\n".join([*lines, *(f"{g}  {verdict(g, report.rows, no_gpu)}" for g in GOALS)])


def _line(row: Row) -> str:
    shape = "×".join(str(n) for n in row.shape.axes)
    memory = "–" if row.memory is None else f"{row.memory:.1f}"
    return f"{row.case:26} {row.implementation:15} {shape:16} {row.ratio:8.2f} {memory:>9}"


def _power(value: float | None) -> str:
    return "–" if value is None else f"L^{value:.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
