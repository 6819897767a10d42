"""Flatten: the temperature at which a head has so much more entropy; our reading of IE-Adapt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan import AttentionPlan
from ..sites import Call
from .shared import check_strength


@dataclass(frozen=True)
class Flatten:
    """Raise the mean row entropy by `strength` of the way to that of the uniform map.

    solved: the temperatures [B, H] of one call, which the run finds (see `Flattened`); without them
    a plan only shows where it acts.
    """

    strength: float
    region: str = "all"
    solved: Tensor | None = None
    field = "temperature"
    pairs = False
    rehearses = False

    def __post_init__(self) -> None:
        check_strength(self.strength)

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        values = torch.tensor(2.0) if self.solved is None else self.solved
        temperature = torch.where(chosen, values, 1.0)
        return plan.within(self.region, lambda part: part.scaled(temperature))
