"""Freeze: heads keep, from a step on, the attention map that they have at that step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..plan import AttentionPlan
from ..sites import Call
from .shared import check_strength, follow


@dataclass(frozen=True)
class Freeze:
    """After step `pivot` each row takes Q and K of itself at that step, in part or in full."""

    pivot: int
    strength: float = 1.0
    region: str = "all"
    field = "source"
    pairs = False
    rehearses = False

    def __post_init__(self) -> None:
        check_strength(self.strength)
        if self.pivot < 0:
            raise ValueError(f"pivot_step: got {self.pivot}, allowed is 0 (the first step) or more")

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    @property
    def origin(self) -> object:
        """Edits of one origin can share a layer."""
        return "frozen", self.pivot

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        return follow(plan, call.guest_rows(), chosen, self.strength, self.region)
