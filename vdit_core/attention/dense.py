"""Ordinary attention inside a plan: which calls of it give softmax(S / T) V of rows and heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..plan import Source
from .masks import allowed

# Ordinary attention, softmax(S / T) V: (q, k, v, mask, T) with [B, H, L, D] → [B, H, Lq, D].
Dense = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]
Scores = tuple[Tensor, Tensor, Tensor | None]  # what scores are made of: Q, K and their mask
Block = tuple[Tensor, Tensor]  # an index of rows [n, 1] and heads [m]


def tempered(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    temperature: Tensor | None,
    dense: Dense,
    mask: Tensor | None,
) -> Tensor:
    """softmax(S / T) V: one dense call for each block of rows and heads that share a temperature.

    T goes into the scale: dividing Q by it would round Q once more in half precision.
    """
    if temperature is None:
        return dense(q, k, v, mask, 1.0)
    values: list[float] = temperature.unique().tolist()
    if len(values) == 1:
        return dense(q, k, v, mask, values[0])
    out = torch.empty_like(q)
    for value in values:
        for block in blocks_of(temperature == value, q.device):
            parts = q[block], k[block], v[block], picked(mask, block)
            out[block] = dense(*parts, value)
    return out


def blocks_of(at: Tensor, device: torch.device) -> Iterator[Block]:
    """Cut rows and heads [B, H] bool into blocks: rows of which the same heads are chosen."""
    for pattern in at[at.any(1)].unique(dim=0):
        rows = (at == pattern).all(1).nonzero().to(device)
        yield rows, pattern.nonzero()[:, 0].to(device)


def taken(own: Scores, of_all: Scores, source: Source | None) -> Scores:
    """`own` with Q and K of their sources, out of `of_all`, for heads that follow them in full."""
    if source is None or not bool((source.strength == 1).any()):
        return own
    full = source.strength == 1
    index, where = source.rows.to(own[0].device), full.to(own[0].device)[:, :, None, None]
    q, k = (torch.where(where, x[index], y) for x, y in zip(of_all[:2], own[:2], strict=True))
    mask = own[2]
    if mask is None or mask.shape[0] == 1:
        return q, k, mask
    assert of_all[2] is not None  # the scores' mask goes with the scores
    return q, k, torch.where(where.to(mask.device), of_all[2][index.to(mask.device)], mask)


def picked(mask: Tensor | None, block: Block) -> Tensor | None:
    """The mask of some rows and heads."""
    if mask is None:
        return None
    rows, heads = block
    mask = mask[rows[:, 0]] if mask.shape[0] > 1 else mask
    return mask[:, heads] if mask.shape[1] > 1 else mask


def mean_value(v: Tensor, mask: Tensor | None) -> Tensor:
    """U V: the mean value over the keys a query may attend to, [B, H, Lq or 1, D]."""
    if mask is None:
        return v.float().mean(2, keepdim=True).to(v.dtype)
    seen = allowed(mask)
    tiles = range(0, seen.shape[2], 256)  # a mask may differ from query to query
    return torch.cat([_masked_mean(v, seen[:, :, s : s + 256]) for s in tiles], 2)


def _masked_mean(v: Tensor, seen: Tensor) -> Tensor:
    weight = seen.float()
    return (weight / weight.sum(-1, keepdim=True) @ v.float()).to(v.dtype)
