"""Temperature: softmax(S / T), so T < 1 is sharper and T > 1 flatter (2504.10317 §4.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan import AttentionPlan
from ..sites import Call


@dataclass(frozen=True)
class Temperature:
    """Divide the scores of the chosen heads by `value` > 0."""

    value: float
    region: str = "all"
    field = "temperature"
    pairs = False
    rehearses = False

    def __post_init__(self) -> None:
        if not (self.value > 0 and math.isfinite(self.value)):
            raise ValueError(f"temperature: got {self.value}, but it must be above 0; 1 is neutral")

    @property
    def neutral(self) -> bool:
        return self.value == 1

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        temperature = torch.where(chosen, self.value, 1.0)
        return plan.within(self.region, lambda part: part.scaled(temperature))
