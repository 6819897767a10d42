"""Pooled maps, row entropy and log-sum-exp, gathered from tiles of the map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..grid import TokenGrid


class PooledMap:
    """Exact block means of the video part of one batch row's maps, and the mass on other tokens."""

    def __init__(self, grid: TokenGrid, heads: int, size: int, device: torch.device) -> None:
        self.grid = grid
        self.bins = grid.bins(size).to(device)
        self.counts = torch.bincount(self.bins)
        count = len(self.counts)
        self.to_bins = torch.zeros(grid.video_tokens, count, device=device)
        self.to_bins[torch.arange(grid.video_tokens), self.bins] = 1
        self.sums = torch.zeros(heads, count, count, dtype=torch.float64, device=device)
        self.others = torch.zeros(heads, count, dtype=torch.float64, device=device)

    def add(self, queries: slice, weights: Tensor) -> None:
        """weights: [H, t, Lk], whose keys are the whole sequence of the grid."""
        first = max(queries.start, self.grid.video.start)
        last = min(queries.stop, self.grid.video.stop)
        if first >= last:
            return
        weights = weights[:, first - queries.start : last - queries.start]
        video = weights[..., self.grid.video]
        rows = self.bins[first - self.grid.prefix : last - self.grid.prefix]
        self.sums.index_add_(1, rows, (video @ self.to_bins).double())
        others = weights[..., : self.grid.prefix].sum(-1)
        others = others + weights[..., self.grid.video.stop :].sum(-1)
        self.others.index_add_(1, rows, others.double())

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean weight per block [H, m, m], and per query bin the mass on non-video keys [H, m]."""
        counts = self.counts.double()
        blocks = self.sums / (counts[:, None] * counts)
        return blocks.float(), (self.others / counts).float()


class RowStatistics:
    """Mean entropy of the rows in nats, mean and largest log-sum-exp of the scores, per head."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self.entropy = torch.zeros(heads, dtype=torch.float64, device=device)
        self.lse = torch.zeros(heads, dtype=torch.float64, device=device)
        self.lse_max = torch.full((heads,), float("-inf"), device=device)
        self.rows = 0

    def add(self, weights: Tensor, lse: Tensor) -> None:
        """weights: [H, t, Lk], lse: [H, t]."""
        self.entropy += torch.special.entr(weights).sum(-1).sum(-1, dtype=torch.float64)
        self.lse += lse.sum(-1, dtype=torch.float64)
        self.lse_max = torch.maximum(self.lse_max, lse.amax(-1))
        self.rows += lse.shape[-1]

    def result(self) -> RowResult:
        return RowResult(
            (self.entropy / self.rows).float(), (self.lse / self.rows).float(), self.lse_max
        )


@dataclass(frozen=True)
class RowResult:
    """entropy, lse_mean, lse_max: each [H] float32."""

    entropy: Tensor
    lse_mean: Tensor
    lse_max: Tensor
