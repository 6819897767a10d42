"""Sparsity: drop the smallest weights, or the lightest blocks, of each head (2504.10317 §4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan import AttentionPlan, Blocks, Threshold
from ..sites import Call

MODES = ("exact", "exact two-run", "block")


@dataclass(frozen=True)
class Sparsify:
    """Drop the share `rates[layer]` of each chosen head's weights; 0 leaves a layer dense.

    mode: "exact" takes the quantile of the call's own map; "exact two-run" that of a dense
    evaluation of the model before it (the paper's procedure); "block" drops whole blocks of
    block_size × block_size and keeps its choice of blocks for `reuse` steps.
    """

    rates: tuple[float, ...]
    mode: str = "exact"
    renormalize: bool = True
    block_size: int = 64
    reuse: int = 1
    region: str = "all"
    field = "threshold"
    pairs = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode: got {self.mode!r}, allowed are {', '.join(MODES)}")
        for rate in self.rates:
            if not 0 <= rate < 1:
                raise ValueError(f"sparsity: got {rate}, allowed is 0 (dense) to below 1")
        if self.mode == "block" and not self.renormalize:
            raise ValueError("renormalize: block mode always renormalises; switch it on")
        if self.block_size < 1 or self.reuse < 1:
            raise ValueError("block_size and reuse_steps: must be 1 or more")

    @property
    def rehearses(self) -> bool:
        return self.mode == "exact two-run"

    @property
    def neutral(self) -> bool:
        return not any(self.rates)

    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        wanted = torch.tensor(self.rates[call.site.layer], dtype=torch.float64)
        rate = torch.where(chosen, wanted, 0.0)
        blocks = Blocks(self.block_size, self.reuse) if self.mode == "block" else None
        new = Threshold(rate, self.renormalize, two_run=self.rehearses, blocks=blocks)
        return plan.within(self.region, lambda part: part.thinned(chosen, new))
