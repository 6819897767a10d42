"""Replay: use the attention maps of a sampling that was kept earlier (2504.10317 §3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan import AttentionPlan
from ..plan import Source as SourceRows
from ..sites import Call
from ..sources import Source


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
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength: got {self.strength}, allowed is 0 to 1")

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    @property
    def origin(self) -> object:
        """Edits of one origin can share a layer."""
        return self.source

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        source = SourceRows(call.guest_rows(), torch.where(chosen, self.strength, 0.0))
        return plan.within(self.region, lambda part: part.sourced(chosen, source))
