"""Replay: use the attention maps of a sampling that was kept earlier (2504.10317 §3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..plan import AttentionPlan
from ..sites import Call
from ..sources import Source
from .shared import check_strength, follow


@dataclass(frozen=True)
class Replay:
    """Each row takes Q and K of its guest: A' = (1 − strength) · A + strength · A_source."""

    source: Source
    strength: float
    region: str = "all"
    field = "source"
    pairs = False
    rehearses = False

    def __post_init__(self) -> None:
        check_strength(self.strength)

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    @property
    def origin(self) -> object:
        """Edits of one origin can share a layer."""
        return self.source

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        return follow(plan, call.guest_rows(), chosen, self.strength, self.region)
