"""What edits share: the check of a strength, and following a source."""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan import AttentionPlan, Source


def check_strength(strength: float) -> None:
    if not 0 <= strength <= 1:
        raise ValueError(f"strength: got {strength}, allowed is 0 to 1")


def follow(
    plan: AttentionPlan, rows: Tensor, chosen: Tensor, strength: float, region: str
) -> AttentionPlan:
    """The chosen rows and heads, [B, H] bool, take Q and K of `rows`, [B] int64."""
    source = Source(rows, torch.where(chosen, strength, 0.0))
    return plan.within(region, lambda part: part.sourced(chosen, source))
