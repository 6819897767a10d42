"""What each key receives: column sums, coverage, and the norms of the values at a sink."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class ColumnStatistics:
    """Column sums Σ_i p_ij [G, Lk] and, for each key, how many queries give it at least `tau`."""

    def __init__(self, heads: int, keys: int, tau: float, device: torch.device) -> None:
        self.tau, self.rows = tau, 0
        self.sums = torch.zeros(heads, keys, dtype=torch.float64, device=device)
        self.heavy = torch.zeros(heads, keys, dtype=torch.int64, device=device)

    def add(self, weights: Tensor, share: Tensor, largest: Tensor) -> None:
        """largest: [G, t] the largest weight of each row, after the division."""
        self.sums += (share[:, None] @ weights)[:, 0]
        self.rows += weights.shape[1]
        bound = self.tau / share  # infinite for a row that attends nowhere
        for head in range(len(weights)):
            peaked = (largest[head] >= self.tau * (1 - 1e-6)).nonzero()[:, 0]
            if 2 * len(peaked) > weights.shape[1]:
                self.heavy[head] += _count(weights[head], bound[head])
            elif len(peaked):
                self.heavy[head] += _count(weights[head, peaked], bound[head, peaked])

    def coverage(self) -> tuple[Tensor, Tensor]:
        """Largest share of the queries that give one key `tau` or more, and that key, each [G].

        Ties go to the key with the larger column sum, so that there is a key where none is heavy.
        """
        order = self.heavy + self.sums / (self.rows + 1)  # a column sum is at most the rows
        key = order.argmax(-1)
        return self.heavy.gather(-1, key[:, None])[:, 0] / self.rows, key


def _count(weights: Tensor, bound: Tensor) -> Tensor:
    """How many rows of weights [t, Lk] reach their bound [t] at each key, [Lk]."""
    if weights.device.type != "cpu":
        return (weights >= bound[:, None]).sum(0)
    at_least = weights.numpy() >= bound[:, None].numpy()  # numpy counts truths ten times faster
    counts = np.add.reduce(at_least.view(np.uint8), axis=0, dtype=np.uint32)
    return torch.from_numpy(counts.astype(np.int64))


def value_norms(v: Tensor, key: Tensor) -> Tensor:
    """Norm of the value at one key, and the mean norm of all others. v: [G, Lk, D] → [G, 2]."""
    norms = v.double().norm(dim=-1)
    at = norms.gather(-1, key[:, None])[:, 0]
    others = (norms.sum(-1) - at) / max(1, v.shape[1] - 1)
    return torch.stack([at, others], -1)
