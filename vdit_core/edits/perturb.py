"""Perturb: mix the map with the identity or the uniform map (2504.12027, Fig. 1, 2, 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan import AttentionPlan, MapMix
from ..sites import Call
from .shared import check_strength

MAPS = ("identity", "uniform")


@dataclass(frozen=True)
class Perturb:
    """(1 − strength) · A + strength · map for the chosen heads."""

    map: str
    strength: float
    region: str = "all"
    field = "map"
    pairs = False
    rehearses = False

    def __post_init__(self) -> None:
        if self.map not in MAPS:
            raise ValueError(f"map: got {self.map!r}, allowed are {' and '.join(MAPS)}")
        check_strength(self.strength)

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        weight = torch.where(chosen, self.strength, 0.0)
        zero = torch.zeros_like(weight)
        identity, uniform = (weight, zero) if self.map == "identity" else (zero, weight)
        mix = MapMix(identity, uniform)
        return plan.within(self.region, lambda part: part.mixed(chosen, mix))
