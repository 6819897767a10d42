"""Skip heads: the output of a head becomes zero (2504.10317 §5.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan import AttentionPlan
from ..sites import Call


@dataclass(frozen=True)
class Skip:
    """Set the gate of the chosen heads to 0; they are not computed."""

    region: str = "all"
    field = "gate"
    neutral = False
    pairs = False
    rehearses = False

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        gate = torch.where(chosen, 0.0, 1.0)
        return plan.within(self.region, lambda part: part.gated(gate))
