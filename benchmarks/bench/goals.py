"""What the pack sets out to reach, and whether a run has reached it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .rows import Row

OURS = ("streaming", "dense", "triton")
SPARE = ("statistics", "quantile", "block75")
Quantity = Literal["ratio", "speed-up", "memory"]


@dataclass(frozen=True)
class Goal:
    """A number to reach at one shape. cases: the worst of them counts, each by its fastest row."""

    device: str
    dtype: str
    axes: list[int]
    cases: tuple[str, ...]
    quantity: Quantity
    wanted: float
    acceptable: float

    def __str__(self) -> str:
        sign, unit = ("≥", "×") if self.quantity == "speed-up" else ("≤", "×")
        unit = "MB" if self.quantity == "memory" else unit
        where = f"{self.device} {self.dtype} {'×'.join(f'{n:,}' for n in self.axes)}"
        what = f"{', '.join(self.cases)}: {self.quantity}"
        return f"{where}  {what} {sign} {self.wanted:g} {unit} ({self.acceptable:g})"


WAN = ("cuda", "bfloat16", [1, 12, 32760, 128])
LAPTOP = ("cpu", "float32", [1, 4, 8192, 64])
GOALS = (
    Goal(*WAN, ("statistics",), "ratio", 1.6, 2.5),
    Goal(*WAN, ("quantile",), "ratio", 2.2, 3.5),
    Goal(*WAN, ("block75",), "speed-up", 3.2, 2.5),
    Goal(*WAN, SPARE, "memory", 64, 512),
    Goal(*LAPTOP, ("statistics",), "ratio", 3, 5),
    Goal(*LAPTOP, ("statistics",), "memory", 64, 256),
)


def verdict(goal: Goal, rows: list[Row], no_gpu: bool) -> str:
    """One line: reached, acceptable, missed or unmeasured, and the number."""
    values = [_value(goal, case, rows) for case in goal.cases]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "unmeasured (no GPU here)" if no_gpu and goal.device == "cuda" else "unmeasured"
    worst = min(known) if goal.quantity == "speed-up" else max(known)
    return f"{judged(goal, worst)}: {worst:.3g}"


def judged(goal: Goal, value: float) -> str:
    up = goal.quantity == "speed-up"
    for word, bound in (("reached", goal.wanted), ("acceptable", goal.acceptable)):
        if value >= bound if up else value <= bound:
            return word
    return "missed"


def _value(goal: Goal, case: str, rows: list[Row]) -> float | None:
    place = case, goal.device, goal.dtype, goal.axes
    mine = [
        row
        for row in rows
        if (row.case, row.device, row.dtype, row.shape.axes) == place and row.implementation in OURS
    ]
    if not mine:
        return None
    best = min(mine, key=lambda row: row.ratio)
    return {"ratio": best.ratio, "speed-up": 1 / best.ratio, "memory": best.memory}[goal.quantity]
