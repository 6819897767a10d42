"""Guide: away from a model whose chosen heads see only themselves (as PAG, arXiv 2403.17377)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan import AttentionPlan, MapMix
from ..sites import Call


@dataclass(frozen=True)
class Guide:
    """result + scale · (cond − weak), with weak from an evaluation in which this change acts.

    It acts in that evaluation alone: there the map of the chosen heads is the identity.
    """

    scale: float
    region: str = "all"
    field = "guidance"
    pairs = False
    rehearses = False

    def __post_init__(self) -> None:
        if not (self.scale >= 0 and math.isfinite(self.scale)):
            raise ValueError(f"strength: got {self.scale}, allowed is 0 or more")

    @property
    def neutral(self) -> bool:
        return self.scale == 0

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        weight = chosen.double()
        mix = MapMix(weight, torch.zeros_like(weight))
        return plan.within(self.region, lambda part: part.mixed(chosen, mix))
