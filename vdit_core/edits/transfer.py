"""Transfer: the target of a pair uses its source's attention map (2504.10317 §3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan import AttentionPlan, Source
from ..sites import Call


@dataclass(frozen=True)
class PairTransfer:
    """Row 1 of each pair takes Q and K of row 0; A' = (1 − strength) · A + strength · A_source."""

    strength: float
    region: str = "all"
    field = "source"
    pairs = True
    rehearses = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength: got {self.strength}, allowed is 0 to 1")

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    @property
    def origin(self) -> object:
        """Edits of one origin can share a layer."""
        return "pair"

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        source = Source(call.source_rows(), torch.where(chosen, self.strength, 0.0))
        return plan.within(self.region, lambda part: part.sourced(chosen, source))
