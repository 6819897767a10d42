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
    """Divide the scores of the chosen heads by `value` > 0, or by a value for each layer.

    layers: one for each layer of the model, empty for `value` in all of them.
    """

    value: float
    region: str = "all"
    layers: tuple[float, ...] = ()
    field = "temperature"
    pairs = False
    rehearses = False

    def __post_init__(self) -> None:
        for value in (self.value, *self.layers):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"temperature: got {value}, but it must be above 0; 1 is neutral")

    @property
    def neutral(self) -> bool:
        return all(value == 1 for value in self.layers or (self.value,))

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        value = self.layers[call.site.layer] if self.layers else self.value
        if value == 1:
            return plan
        temperature = torch.where(chosen, value, 1.0)
        return plan.within(self.region, lambda part: part.scaled(temperature))
