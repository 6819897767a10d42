"""What the video's queries do within their frame, at their place over time, and with the prompt.

Read off the very map that a plan makes, tile by tile: a part of a row is renormalised by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..grid import TokenGrid
from ..plan import AttentionPlan
from .checks import check_finite, check_mask, check_operands, check_region, grouped
from .heads import HeadGroup
from .splice import video_queries
from .thin import thinned_group
from .tiles import LOWEST, Tile, heads_at_once
from .workers import side_by_side

PARTS = ("spatial_entropy", "temporal_entropy", "spatial_mass", "temporal_mass")


def measure_parts(
    q: Tensor,
    k: Tensor,
    plan: AttentionPlan,
    *,
    grid: TokenGrid,
    rows: Sequence[int],
    heads: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """The fields PARTS of MapMeasures, each [rows, heads] float64.

    q, k: [B, H, L, D], of self- or joint attention over `grid`. plan: as it acts; a gate is no part
    of the map. mask: broadcasts to [B, H, Lq, Lk]. poll: called before each row; may raise.
    """
    k = grouped(k, q)
    _check(q, k, plan, mask, grid)

    def measured(row: int, some: Tensor) -> Tensor:
        group = thinned_group(q, k, plan.ungated, row, some, mask, scale)
        return _parts(group, grid)

    each = heads.split(heads_at_once(q.device, q.shape[2], k.shape[2]))
    found: list[Tensor] = []
    for row in rows:
        poll()
        found.append(torch.cat(side_by_side(measured, [(row, some) for some in each], q.device), 1))
    return dict(zip(PARTS, torch.stack(found, 1).cpu(), strict=True))


def measure_words(
    q: Tensor,
    k: Tensor,
    plan: AttentionPlan,
    *,
    grid: TokenGrid,
    words: slice,
    rows: Sequence[int],
    heads: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """The weight of each video query on each key of `words`, mean of the heads.

    The field prompt_places of a record, [rows, T, F·R·C] bfloat16. q: [B, H, Lq, D] over `grid`.
    k: [B, H, Lk, D], the same tokens or the text alone. The rest is as in `measure_parts`.
    """
    k = grouped(k, q)
    _check(q, k, plan, mask, grid)
    found: list[Tensor] = []
    for row in rows:
        sums = q.new_zeros(grid.video_tokens, words.stop - words.start, dtype=torch.float32)
        for some in heads.split(heads_at_once(q.device, q.shape[2], k.shape[2])):
            poll()
            group = thinned_group(q, k, plan.ungated, row, some, mask, scale)
            for tile in group.tiles():
                index, here = _video_rows(tile, grid)
                weights = tile.weights[:, here, words] * _share(tile)[:, here, None]
                sums[index] += weights.sum(0).to(sums)
        found.append((sums / len(heads)).T.to(torch.bfloat16).cpu())
    return {"prompt_places": torch.stack(found)}


def _check(q: Tensor, k: Tensor, plan: AttentionPlan, mask: Tensor | None, grid: TokenGrid) -> None:
    check_operands(q, k, None)
    check_mask(mask, q, k)
    check_region(plan, q, k)
    check_finite(q=q, k=k)
    if len(grid) != q.shape[2]:
        raise ValueError(f"grid: {grid} has {len(grid)} tokens, but there are {q.shape[2]} queries")


def _video_rows(tile: Tile, grid: TokenGrid) -> tuple[Tensor, slice]:
    """Which video tokens a tile's video queries are, and where in the tile they lie."""
    here = video_queries(tile.queries, grid.video)
    return tile.queries[here] - grid.prefix, here


def _share(tile: Tile) -> Tensor:
    """What makes a tile's weights parts of 1, [G, t]; 0 for a row that attends nowhere."""
    return tile.mass.sign() / tile.total


def _parts(group: HeadGroup, grid: TokenGrid) -> Tensor:
    """PARTS of some heads, [4, G]."""
    places, device = grid.rows * grid.cols, group.own.q.device
    spatial, temporal = (_Part(len(group.heads), device) for _ in range(2))
    of_place = grid.prefix + places * torch.arange(grid.frames, device=device)
    frames = places * torch.arange(grid.frames + 1, device=device)
    for tile in group.tiles():
        index, here = _video_rows(tile, grid)
        logs, share = tile.logs[:, here], _share(tile)[:, here]
        keys = (index % places)[:, None] + of_place
        temporal.add(logs.gather(-1, keys.expand(len(logs), *keys.shape)), share)
        ends: list[int] = torch.searchsorted(index, frames).tolist()
        for frame, (start, stop) in enumerate(pairwise(ends)):
            first = grid.prefix + frame * places
            if stop > start:
                spatial.add(logs[:, start:stop, first : first + places], share[:, start:stop])
    queries = grid.video_tokens
    entropies = spatial.entropy(), temporal.entropy()
    return torch.stack([*entropies, spatial.mass / queries, temporal.mass / queries])


class _Part:
    """One part of each row: its mass, and the entropy of its weights among themselves."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self.mass, self.sums, self.rows = torch.zeros(3, heads, dtype=torch.float64, device=device)

    def add(self, logs: Tensor, share: Tensor) -> None:
        """logs: [G, t, n] of weights, LOWEST for none. share: [G, t] what a weight is times.

        Taken from logarithms, a part of next to no mass still has its entropy. One in which nothing
        may be seen, or all was dropped, has none and does not count.
        """
        there = logs.amax(-1) > LOWEST / 2
        entropy = torch.special.entr(logs.softmax(-1)).sum(-1)
        self.sums += (entropy * there).sum(-1, dtype=torch.float64)
        self.rows += there.sum(-1)
        self.mass += (logs.exp().sum(-1) * share).sum(-1, dtype=torch.float64)

    def entropy(self) -> Tensor:
        """Mean over the rows that have the part, [G]; NaN where none has."""
        return (self.sums / self.rows).where(self.rows > 0, math.nan)
