"""Real footage as a source: the target of a pair follows a loaded video (2504.10317 §3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..footage import Footage
from ..plan import AttentionPlan, Blend
from ..sites import Call
from .shared import check_strength, follow


@dataclass(frozen=True)
class FollowFootage:
    """Row 1 of each pair takes Q and K of row 0, in whose place the run puts the footage.

    strengths: one for each layer of the model. Where the footage may not change, row 1 takes the
    whole output of row 0, in all chosen layers, at any strength.
    """

    footage: Footage
    strengths: tuple[float, ...]
    region: str = "all"
    field = "source"
    pairs = True
    rehearses = False

    def __post_init__(self) -> None:
        for strength in self.strengths:
            check_strength(strength)

    @property
    def neutral(self) -> bool:
        return not any(self.strengths) and self.footage.own is None

    @property
    def in_part(self) -> bool:
        """Whether a layer mixes the footage's map with its own."""
        return any(0 < strength < 1 for strength in self.strengths)

    @property
    def origin(self) -> object:
        """Edits of one origin can share a layer."""
        return "pair"

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        rows, strength = call.source_rows(), self.strengths[call.site.layer]
        if strength:
            plan = follow(plan, rows, chosen, strength, self.region)
        if self.footage.own is None:
            return plan
        return plan.blended(Blend(rows, chosen, self.footage.own))
