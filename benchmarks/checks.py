"""Numbers that a study has measured, and running each study in a process of its own.

A study is a module of `benchmarks/studies` with `run(quick: bool) -> list[Check]`.

    python3 dev.py python -m vdit_attention.benchmarks.checks exactness --quick
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

PACKAGE = __package__ or "vdit_attention.benchmarks"
STUDIES = Path(__file__).parent / "studies"


class StudyFailed(RuntimeError):
    """A study that raised, or gave no number."""


@dataclass(frozen=True)
class Check:
    """One measured number.

    limit: what it is held against, None for a number that is only shown. ok: whether it keeps to
    the limit; true without one. group: the heading it stands under, the study's name if empty.
    spread: of the value, such as a standard deviation over seeds; the note says which.
    """

    name: str
    value: float
    unit: str = ""
    limit: float | None = None
    ok: bool = True
    group: str = ""
    note: str = ""
    bound: str = ""  # "≤" or "≥", with a limit
    spread: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json; JSON has no NaN and no infinity."""
        value, spread = (_finite(number) for number in (self.value, self.spread))
        return asdict(self) | {"value": value, "spread": spread}


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else number


def at_most(name: str, value: float, limit: float, unit: str = "", note: str = "") -> Check:
    """A number that must not exceed its limit. NaN does not keep to any."""
    return Check(name, value, unit, limit, value <= limit, note=note, bound="≤")


def at_least(name: str, value: float, limit: float, unit: str = "", note: str = "") -> Check:
    """A number that must reach its limit. NaN does not reach any."""
    return Check(name, value, unit, limit, value >= limit, note=note, bound="≥")


def study_names() -> list[str]:
    """The modules of `benchmarks/studies`."""
    return sorted(path.stem for path in STUDIES.glob("*.py") if not path.stem.startswith("_"))


def run_apart(name: str, quick: bool) -> tuple[list[dict[str, Any]], float]:
    """Run a study in a process of its own; its checks as JSON, and the seconds it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "checks.json"
        command = [sys.executable, "-m", f"{PACKAGE}.checks", name, "--out", str(answer)]
        done = subprocess.run(
            [*command, *(["--quick"] if quick else [])],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # these small tensors gain nothing by more
        )
        if done.returncode or not answer.exists():
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
            raise StudyFailed(f"the study {name} ended with status {done.returncode}:\n{tail}")
        return json.loads(answer.read_text("utf-8")), time.monotonic() - began


def run_study(name: str, quick: bool) -> list[Check]:
    """Run a study in this process."""
    module = importlib.import_module(f"{PACKAGE}.studies.{name}")
    checks: list[Check] = module.run(quick)
    if not checks:
        raise StudyFailed(f"the study {name} has measured nothing")
    return checks


def choose_device() -> None:
    """Tell ComfyUI what this machine has; it reads its command line when first imported."""
    from .server import device_arguments

    sys.argv = [sys.argv[0], *device_arguments()]
    import comfy.options

    comfy.options.enable_args_parsing()


def show(check: Check) -> str:
    """A line of text for a person."""
    mark = "ok  " if check.ok else "FAIL"
    limit = f"  ({check.bound} {check.limit:g})" if check.limit is not None else ""
    spread = "" if check.spread is None else f" ± {check.spread:.2g}"
    return f"{mark} {check.name}: {check.value:.4g}{spread} {check.unit}{limit}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Run one study and show its numbers.")
    parser.add_argument("study", choices=study_names())
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--out", type=Path, help="write the checks to this file as JSON")
    options = parser.parse_args()
    choose_device()
    checks = run_study(options.study, options.quick)
    for check in checks:
        print(show(check))
    if options.out:
        content = [replace(c, group=c.group or options.study).to_json() for c in checks]
        options.out.write_text(json.dumps(content), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
