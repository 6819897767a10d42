"""The map of a plan in tiles of queries: never more than a few rows of it at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..measures.sorted_rows import SortedRows

CACHE_BYTES = 6 * 2**20  # per thread: larger tiles leave the cache, smaller ones cost more calls
MOST_THREADS = 4  # that tiles grow for, so that memory stays small on large machines
GPU_BYTES = 2**26
FEWEST = 32  # queries in a tile, for a matrix product worth its name, where memory allows
MODEST = 60.0  # scores up to this go to exp as they are: no sum overflows, 1e-9 of e^−60 is not 0
LOWEST = -1e30  # the score of a key that may not be attended to; finite, so that 0 · score is 0


@dataclass(frozen=True)
class Tile:
    """Some queries of a group of heads; valid until the next tile is asked for.

    queries: [t] int64. weights: [G, t, Lk], not yet divided by total: [G, t]. mass: [G, t] their
    sum after the division. lse: [G, t] of the scores. allowed: [G, t] keys the mask lets through.
    shifted: [G, t, Lk] such that weights = exp(shifted), where the map is a softmax. work:
    [G, t, Lk] to be written over by whoever reads the tile. peak: [G, t] the largest of the
    weights, where it is known. bounded: no allowed weight is too small for its number format, so
    that sizes are told by the weights themselves, not by their logs. dropped: of thinned rows, how
    many allowed entries were dropped and the mass they held, each [G, t]. video: [G, t] mass of a
    video query on video keys, where the video has a plan of its own.
    """

    queries: Tensor
    weights: Tensor
    total: Tensor
    mass: Tensor
    lse: Tensor
    allowed: Tensor
    shifted: Tensor | None
    work: Tensor
    peak: Tensor | None = None
    bounded: bool = False
    dropped: tuple[Tensor, Tensor] | None = None
    video: Tensor | None = None

    @cached_property
    def logs(self) -> Tensor:
        """log(weights), with LOWEST where a weight is zero, [G, t, Lk]."""
        return self.weights.log().clamp_min_(LOWEST) if self.shifted is None else self.shifted

    @cached_property
    def largest(self) -> Tensor:
        """The largest weight of each row, after the division, [G, t]."""
        peak = self.weights.amax(-1) if self.peak is None else self.peak
        return peak / self.total

    @cached_property
    def log_total(self) -> Tensor:
        return self.total.log()

    def rewritten(self, **changes: Tensor | tuple[Tensor, Tensor] | None) -> Tile:
        """The tile with other weights, which are no softmax."""
        return replace(self, shifted=None, peak=None, bounded=False, **changes)

    def sorted(self, head: int) -> SortedRows:
        """The rows of one head by size, which uses up its weights and their logs.

        By weight where none is too small for that, which spares an exponential, or else by log.
        """
        weights, known = self.weights[head], (self.log_total[head], self.allowed[head])
        if self.bounded:
            assert self.shifted is not None
            return SortedRows.sort(weights, *known, work=self.shifted[head], in_logs=False)
        return SortedRows.sort(self.logs[head], *known, work=weights)


@dataclass
class Softmax:
    """softmax(S / T) of a group of heads.

    q: [G, Lq, D] with the scale in it. keys: [G, D, Lk]. rows, heads: [G] where the mask is looked
    up. mask: four axes or None. thresholds: [G] log weights below which all is dropped. kept:
    [G, nq, nk] bool, the blocks of `block` queries × `block` keys outside which nothing is seen.
    """

    q: Tensor
    keys: Tensor
    rows: Tensor
    heads: Tensor
    mask: Tensor | None
    thresholds: Tensor | None = None
    renormalize: bool = True
    kept: Tensor | None = None
    block: int = 1

    @property
    def queries(self) -> int:
        return self.q.shape[1]

    @cached_property
    def bounded(self) -> bool:
        """Whether every allowed score may go to exp as it is: |q · k| ≤ |q| |k|."""
        if self.mask is not None and self.mask.dtype != torch.bool:
            return False
        return float(self.q.norm(dim=-1).amax() * self.keys.norm(dim=1).amax()) < MODEST

    def tiles(self, size: int | None = None) -> Iterator[Tile]:
        """Tiles of at most `size` queries (by default what suits the device), each spread evenly
        over all of them.

        Spread, so that any few tiles are a fair sample of the rows: selection relies on it.
        """
        (groups, queries, _), keys = self.q.shape, self.keys.shape[-1]
        size = size or tile_size(self.q.device, groups, queries, keys)
        count = -(-queries // size)
        buffers = self.q.new_empty(3, groups * -(-queries // count) * keys)
        for first in range(count):
            at = torch.arange(first, queries, count, device=self.q.device)
            shape = groups, len(at), keys
            used = groups * len(at) * keys
            scores, weights, work = (buffer[:used].view(shape) for buffer in buffers)
            yield self.tile(at, scores, weights, work)

    def tile(self, at: Tensor, scores: Tensor, weights: Tensor, work: Tensor) -> Tile:
        """The tile of some queries. scores, weights, work: [G, t, Lk], to be written over."""
        torch.bmm(self.q[:, at], self.keys, out=scores)
        bias = self._with_blocks(self.bias(at), at)
        if bias is not None:
            scores += bias
        largest = None if self.bounded else scores.amax(-1)
        if largest is not None:
            scores -= largest[..., None]
        torch.exp(scores, out=weights)
        total = weights.sum(-1)
        if bias is None:
            allowed = torch.full_like(total, scores.shape[-1], dtype=torch.int64)
        else:
            allowed = (bias > LOWEST / 2).sum(-1).expand(total.shape)
            nowhere = allowed == 0
            weights.masked_fill_(nowhere[..., None], 0)
            scores.masked_fill_(nowhere[..., None], LOWEST)
            total = total.masked_fill(nowhere, 1)
        mass = (allowed > 0).to(total)
        lse = (total * mass).log() + (0 if largest is None else largest)
        peak = None if largest is None else mass  # of a softmax less the largest it is exp(0)
        tile = Tile(at, weights, total, mass, lse, allowed, scores, work, peak, self.bounded)
        return tile if self.thresholds is None else self._thinned(tile)

    def _thinned(self, tile: Tile) -> Tile:
        """Drop what lies strictly below the threshold; a row may lose everything."""
        assert self.thresholds is not None
        logs = tile.weights.log() if tile.bounded else tile.logs  # as the quantile was found
        logs = logs - tile.log_total[..., None]
        keep = torch.ge(logs, self.thresholds[:, None, None], out=logs)
        hidden = logs.shape[-1] - tile.allowed  # never below a threshold of −inf, always else
        count = (logs.shape[-1] - keep.sum(-1) - hidden).clamp_min_(0)
        tile.weights.mul_(keep)
        left = tile.weights.sum(-1)
        dropped = count, tile.mass - left / tile.total
        if not self.renormalize:
            mass = left / tile.total
            return tile.rewritten(mass=mass, dropped=dropped)
        some = left > 0
        total, mass = left.where(some, 1), some.to(left)
        return tile.rewritten(total=total, mass=mass, dropped=dropped)

    def _with_blocks(self, bias: Tensor | None, at: Tensor) -> Tensor | None:
        if self.kept is None:
            return bias
        kept = self.kept[:, at // self.block].repeat_interleave(self.block, -1)
        blocks = as_bias(kept[..., : self.keys.shape[-1]], self.q.dtype)
        return blocks if bias is None else torch.minimum(bias, blocks)

    def bias(self, at: Tensor) -> Tensor | None:
        """The mask of some queries as numbers to add, [G, t or 1, Lk]."""
        if self.mask is None:
            return None
        mask = self.mask[
            self.rows if self.mask.shape[0] > 1 else self.rows * 0,
            self.heads if self.mask.shape[1] > 1 else self.heads * 0,
        ]
        return as_bias(mask[:, at] if mask.shape[1] > 1 else mask, self.q.dtype)


def heads_at_once(device: torch.device, queries: int, keys: int) -> int:
    """Heads whose whole maps fit one tile together; long sequences go head by head."""
    return max(1, _bytes(device) // (4 * queries * keys))


def tile_size(device: torch.device, heads: int, queries: int, keys: int) -> int:
    """Queries in a tile."""
    fits = _bytes(device) // (4 * heads * keys)
    return min(queries, max(fits, min(FEWEST, _free_bytes(device) // (64 * heads * keys)), 1))


def as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers to add to scores: LOWEST where a key may not be attended to."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, LOWEST)
    blocked = mask <= torch.finfo(mask.dtype).min / 2
    return mask.to(dtype).masked_fill(blocked, LOWEST)


def _bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return CACHE_BYTES * min(torch.get_num_threads(), MOST_THREADS)
    return min(GPU_BYTES, _free_bytes(device) // 16)


def _free_bytes(device: torch.device) -> int:
    """Memory that may be taken. The processor's is not asked for: tiles there are small."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2**33
