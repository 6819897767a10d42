"""What each query says of itself: log-sum-exp, entropy, largest weight."""

from __future__ import annotations

import torch
from torch import Tensor


class RowStatistics:
    """lse, entropy in nats and largest weight of every row, each [G, Lq]."""

    def __init__(self, heads: int, queries: int, dtype: torch.dtype, device: torch.device) -> None:
        def empty() -> Tensor:
            return torch.zeros(heads, queries, dtype=dtype, device=device)

        self.lse, self.entropy, self.max_weight = empty(), empty(), empty()

    def add(self, queries: Tensor, largest: Tensor, lse: Tensor) -> None:
        self.lse[:, queries] = lse
        self.max_weight[:, queries] = largest

    def add_entropy(self, queries: Tensor, products: Tensor, share: Tensor, mass: Tensor) -> None:
        """−Σ p log p with p = share · w, without forming p. products: Σ w log w, [G, t]."""
        within = products * share
        log_share = share.log().nan_to_num(neginf=0.0)
        self.entropy[:, queries] = (-within - mass * log_share).clamp_min_(0)
