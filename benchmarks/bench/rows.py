"""What a run has found: rows, how time and memory grow with length, and all of it as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .cases import GROWING
from .problem import Shape

LEAST_MB = 1.0  # less cannot be told from nothing


@dataclass
class Row:
    """One case at one shape. seconds: of one call; ratio: to torch's attention in the same run.

    memory: MB beyond operands and answer, None where it was not measured.
    """

    case: str
    implementation: str
    device: str
    dtype: str
    shape: Shape
    ratio: float
    seconds: float
    memory: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "case": self.case,
            "implementation": self.implementation,
            "device": self.device,
            "dtype": self.dtype,
            "shape": self.shape.axes,
            "ratio_to_sdpa": round(self.ratio, 4),
            "extra_memory_mb": None if self.memory is None else round(self.memory, 2),
        }


@dataclass(frozen=True)
class Growth:
    """Time ~ tokens ** time, memory ~ tokens ** memory, over these lengths."""

    case: str
    implementation: str
    lengths: list[int]
    time: float | None
    memory: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "case": self.case,
            "implementation": self.implementation,
            "lengths": self.lengths,
            "time_exponent": _rounded(self.time),
            "memory_exponent": _rounded(self.memory),
        }


@dataclass
class Report:
    """Everything of one run. left_out: what could not be measured, in words."""

    facts: dict[str, Any]
    rows: list[Row] = field(default_factory=list[Row])
    left_out: list[str] = field(default_factory=list[str])

    def rows_json(self) -> list[dict[str, Any]]:
        return [row.to_json() for row in self.rows]

    def rest_json(self) -> dict[str, Any]:
        """All that is not a row."""
        growth = [each.to_json() for each in growths(self.rows)]
        return {"growth": growth, "left_out": self.left_out, "facts": self.facts}


def growths(rows: list[Row]) -> list[Growth]:
    """Of the growing cases, over the lengths that share heads and head width."""
    found: list[Growth] = []
    for case, how in dict.fromkeys((r.case, r.implementation) for r in rows if r.case in GROWING):
        mine = [r for r in rows if (r.case, r.implementation) == (case, how)]
        heads = mine[0].shape.heads, mine[0].shape.width
        mine = [r for r in mine if (r.shape.heads, r.shape.width) == heads]
        time = exponent([(r.shape.tokens, r.seconds) for r in mine])
        known = [(r.shape.tokens, max(r.memory, LEAST_MB)) for r in mine if r.memory is not None]
        found.append(Growth(case, how, [r.shape.tokens for r in mine], time, exponent(known)))
    return found


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """The power of x that fits y best: least squares in log–log. None for fewer than two points."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x = sum(x for x, _ in logs) / max(1, len(logs))
    mean_y = sum(y for _, y in logs) / max(1, len(logs))
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    if spread == 0:
        return None
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
