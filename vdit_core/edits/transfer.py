"""Transfer: the target of a pair uses its source's attention map (2504.10317 §3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..plan import AttentionPlan
from ..sites import Call
from .shared import check_strength, follow


@dataclass(frozen=True)
class PairTransfer:
    """Row 1 of each pair takes Q and K of row 0; A' = (1 − strength) · A + strength · A_source."""

    strength: float
    region: str = "all"
    field = "source"
    pairs = True
    rehearses = False

    def __post_init__(self) -> None:
        check_strength(self.strength)

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    @property
    def origin(self) -> object:
        """Edits of one origin can share a layer."""
        return "pair"

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        return follow(plan, call.source_rows(), chosen, self.strength, self.region)
