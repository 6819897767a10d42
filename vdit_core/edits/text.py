"""Hide text: only the first tokens of the prompt can be looked at (2504.10317 §3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan import WHOLE, AttentionPlan
from ..sites import Call


@dataclass(frozen=True)
class HideText:
    """Of the prompt's tokens only the first `shown` ≥ 1 are keys; joint attention only."""

    shown: int
    region: str = "all"
    field = "text"
    neutral = False
    pairs = False
    rehearses = False

    def __post_init__(self) -> None:
        if self.shown < 1:
            raise ValueError(f"tokens: got {self.shown}, allowed is 1 or more")

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        return plan.showing(torch.where(chosen, self.shown, WHOLE))
