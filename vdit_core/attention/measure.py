"""`measure`: statistics of the map a plan uses, without ever holding the map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..grid import TokenGrid
from ..measures.maps import PooledMap, RowStatistics
from ..plan import UNTOUCHED, AttentionPlan
from .tiles import map_tiles


@dataclass(frozen=True)
class MapMeasures:
    """What is measured of one batch row, all float32 on the CPU.

    pooled_map: [H, m, m] mean weight per block of video tokens. other_mass: [H, m] share of a
    query's weight on tokens that are not video. entropy: [H] mean row entropy in nats.
    lse_mean, lse_max: [H] of the scores' log-sum-exp.
    """

    pooled_map: Tensor
    other_mass: Tensor
    entropy: Tensor
    lse_mean: Tensor
    lse_max: Tensor


def measure(
    q: Tensor,
    k: Tensor,
    *,
    grid: TokenGrid,
    plan: AttentionPlan = UNTOUCHED,
    map_size: int = 64,
    rows: list[int] | None = None,
    heads: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    tile: int | None = None,
) -> list[MapMeasures]:
    """Measure M of the plan for the given batch rows and heads, one result per row.

    q, k: [B, H, L, D] of an attention whose queries and keys are the grid's sequence.
    """
    if not len(grid) == q.shape[2] == k.shape[2]:
        raise ValueError(
            f"grid: {grid} has {len(grid)} tokens, but there are {q.shape[2]} queries "
            f"and {k.shape[2]} keys"
        )
    chosen = list(range(q.shape[0])) if rows is None else rows
    count = q.shape[1] if heads is None else len(heads)
    pooled = {b: PooledMap(grid, count, map_size, q.device) for b in chosen}
    per_row = {b: RowStatistics(count, q.device) for b in chosen}
    for piece in map_tiles(q, k, plan, mask=mask, scale=scale, rows=chosen, heads=heads, tile=tile):
        pooled[piece.row].add(piece.queries, piece.weights)
        per_row[piece.row].add(piece.weights, piece.lse)
    return [_result(pooled[b], per_row[b]) for b in chosen]


def _result(pooled: PooledMap, per_row: RowStatistics) -> MapMeasures:
    blocks, others = pooled.result()
    stats = per_row.result()
    parts = (blocks, others, stats.entropy, stats.lse_mean, stats.lse_max)
    return MapMeasures(*(torch.as_tensor(part).cpu() for part in parts))
