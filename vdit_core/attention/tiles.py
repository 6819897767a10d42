"""The map of a plan in tiles of queries: never more than a few rows of it at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan import AttentionPlan

TILE_BYTES = 48 * 2**20  # for the handful of [H, rows, Lk] float32 tensors alive at once
ALIVE = 4


@dataclass(frozen=True)
class Tile:
    """Some queries of one batch row. weights: [H, t, Lk], lse: [H, t] of its scores, float32."""

    row: int
    queries: slice
    weights: Tensor
    lse: Tensor


def map_tiles(
    q: Tensor,
    k: Tensor,
    plan: AttentionPlan,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    rows: list[int] | None = None,
    heads: Tensor | None = None,
    tile: int | None = None,
) -> Iterator[Tile]:
    """Yield M tile by tile, in float32.

    q, k: [B, H, L, D]. mask: broadcasts to [B, H, Lq, Lk], bool (True = may attend) or additive.
    rows, heads: only these batch rows and heads ([n] int64); all when left out.
    """
    if plan.threshold is not None:
        raise ValueError("implementation: streaming has no threshold; use 'reference'")
    if plan.source is not None and plan.source.region != "all":
        raise ValueError("region: streaming handles 'all' only")
    batch, head_count, queries, _ = q.shape
    heads = torch.arange(head_count) if heads is None else heads
    size = tile or max(1, TILE_BYTES // (ALIVE * 4 * len(heads) * k.shape[2]))
    for b in range(batch) if rows is None else rows:
        head = _Head(q, k, plan, mask, scale, b, heads)
        for start in range(0, queries, size):
            span = slice(start, min(start + size, queries))
            yield Tile(b, span, *head.weights(span))


class _Head:
    """What all tiles of one batch row share."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        plan: AttentionPlan,
        mask: Tensor | None,
        scale: float | None,
        row: int,
        heads: Tensor,
    ) -> None:
        self.q, self.mask, self.row, self.heads = q, mask, row, heads.to(q.device)
        factor = torch.full((len(heads),), q.shape[-1] ** -0.5 if scale is None else scale)
        if plan.temperature is not None:
            factor = factor / plan.temperature[row, heads]
        self.factor = factor.to(q.device, torch.float32)[:, None, None]
        self.strength = _column(plan.source.strength[row, heads], q) if plan.source else None
        source = int(plan.source.rows[row]) if plan.source is not None else row
        self.own = self._transposed(k, row)
        if self.strength is not None and bool((self.strength != 0).any()):
            self.source, self.source_keys = source, self._transposed(k, source)
        else:
            self.strength = None
        self.mix = None
        if plan.map is not None:
            identity, uniform = plan.map.identity[row, heads], plan.map.uniform[row, heads]
            self.mix = _column(identity, q), _column(uniform, q)

    def weights(self, span: slice) -> tuple[Tensor, Tensor]:
        weights, lse = self._softmax(self.row, self.own, span)
        if self.strength is not None:
            other, other_lse = self._softmax(self.source, self.source_keys, span)
            weights = torch.lerp(weights, other, self.strength.expand_as(weights))
            lse = torch.where(self.strength[..., 0] == 1, other_lse, lse)
        if self.mix is None:
            return weights, lse
        identity, uniform = self.mix
        weights = weights * (1 - identity - uniform)
        weights.diagonal(span.start, -2, -1).add_(identity[..., 0])
        return weights + uniform * self._uniform(span, weights), lse

    def _softmax(self, row: int, keys: Tensor, span: slice) -> tuple[Tensor, Tensor]:
        queries = self.q[row, self.heads, span].float() * self.factor
        scores = queries @ keys  # [H, t, Lk]
        if (bias := self._bias(row, span)) is not None:
            scores = scores + bias
        lse = scores.logsumexp(-1)
        return scores.sub_(lse[..., None]).exp_(), lse

    def _uniform(self, span: slice, like: Tensor) -> Tensor:
        if (bias := self._bias(self.row, span)) is None:
            return torch.full_like(like[:1, :1], 1 / like.shape[-1])
        allowed = (bias > torch.finfo(torch.float32).min / 2).float()
        return allowed / allowed.sum(-1, keepdim=True)

    def _bias(self, row: int, span: slice) -> Tensor | None:
        """The mask of some queries of one row as float32 numbers to add, [H or 1, t or 1, Lk]."""
        if self.mask is None:
            return None
        mask = self.mask[row if self.mask.shape[0] > 1 else 0]
        mask = mask[self.heads] if mask.shape[0] > 1 else mask
        mask = mask[:, span] if mask.shape[1] > 1 else mask
        if mask.dtype == torch.bool:
            zero = torch.zeros_like(mask, dtype=torch.float32)
            return zero.masked_fill_(~mask, float("-inf"))
        return mask.float()

    def _transposed(self, k: Tensor, row: int) -> Tensor:
        return k[row, self.heads].float().transpose(-1, -2)  # [H, D, Lk]


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, torch.float32)[:, None, None]
