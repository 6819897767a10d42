"""The map of a plan in tiles of queries: never more than a few rows of it at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..plan import AttentionPlan

CACHE_BYTES = 2**22  # per thread: larger tiles leave the cache, smaller ones cost more calls
MOST_THREADS = 4  # that tiles grow for, so that memory stays small on large machines
GPU_BYTES = 2**26
FEWEST = 32  # queries in a tile, for a matrix product worth its name, where memory allows
LOWEST = -1e30  # the score of a key that may not be attended to; finite, so that 0 · score is 0


@dataclass(frozen=True)
class Tile:
    """Some queries of a group of heads; valid until the next tile is asked for.

    queries: [t] int64. weights: [G, t, Lk], not yet divided by total: [G, t]. mass: [G, t] their
    sum after the division. lse: [G, t] of the scores. allowed: [G, t] keys the mask lets through.
    shifted: [G, t, Lk] such that weights = exp(shifted), where the map is a softmax. dropped: of
    thinned rows, how many allowed entries were dropped and the mass they held, each [G, t]. work:
    [G, t, Lk] to be written over by whoever reads the tile.
    """

    queries: Tensor
    weights: Tensor
    total: Tensor
    mass: Tensor
    lse: Tensor
    allowed: Tensor
    shifted: Tensor | None
    work: Tensor
    dropped: tuple[Tensor, Tensor] | None = None

    @cached_property
    def logs(self) -> Tensor:
        """log(weights), with LOWEST where a weight is zero, [G, t, Lk]."""
        return self.weights.log().clamp_min_(LOWEST) if self.shifted is None else self.shifted

    @cached_property
    def largest(self) -> Tensor:
        """The largest weight of each row, after the division, [G, t]."""
        if self.shifted is not None:
            return self.mass / self.total  # the largest of a softmax is exp(0)
        return self.weights.amax(-1) / self.total

    @cached_property
    def log_total(self) -> Tensor:
        return self.total.log()


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
            yield self._tile(at, scores, weights, work)

    def _tile(self, at: Tensor, scores: Tensor, weights: Tensor, work: Tensor) -> Tile:
        torch.bmm(self.q[:, at], self.keys, out=scores)
        bias = self._with_blocks(self.bias(at), at)
        if bias is not None:
            scores += bias
        largest = scores.amax(-1)
        torch.sub(scores, largest[..., None], out=scores)
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
            largest = largest.masked_fill(nowhere, float("-inf"))
        mass = (allowed > 0).to(total)
        lse = largest + total.log()
        tile = Tile(at, weights, total, mass, lse, allowed, scores, work)
        return tile if self.thresholds is None else self._thinned(tile)

    def _thinned(self, tile: Tile) -> Tile:
        """Drop what lies strictly below the threshold; a row may lose everything."""
        assert self.thresholds is not None
        logs = tile.logs - tile.log_total[..., None]
        keep = torch.ge(logs, self.thresholds[:, None, None], out=logs)
        hidden = logs.shape[-1] - tile.allowed  # never below a threshold of −inf, always else
        count = (logs.shape[-1] - keep.sum(-1) - hidden).clamp_min_(0)
        tile.weights.mul_(keep)
        left = tile.weights.sum(-1)
        dropped = count, tile.mass - left / tile.total
        if not self.renormalize:
            mass = left / tile.total
            return replace(tile, mass=mass, shifted=None, dropped=dropped)
        some = left > 0
        total, mass = left.where(some, 1), some.to(left)
        return replace(tile, total=total, mass=mass, shifted=None, dropped=dropped)

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


class HeadGroup:
    """The map M of some heads of one batch row.

    own: softmax of the row, or of its source for heads that follow it in full. source: where heads
    follow in part. strength, identity, uniform: [G, 1, 1] or None.
    """

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        plan: AttentionPlan,
        row: int,
        heads: Tensor,
        mask: Tensor | None = None,
        scale: float | None = None,
    ) -> None:
        if plan.source is not None and plan.source.region != "all":
            raise ValueError("region: streaming handles 'all' only")
        self.row, self.heads = row, heads
        self.dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        self.queries, self.keys = q.shape[2], k.shape[2]
        factor = torch.full((len(heads),), q.shape[-1] ** -0.5 if scale is None else scale)
        if plan.temperature is not None:
            factor = factor / plan.temperature[row, heads]

        def softmax(rows: Tensor) -> Softmax:
            rows, at = rows.to(q.device), heads.to(q.device)
            scaled = q[rows, at].to(self.dtype) * factor.to(q.device, self.dtype)[:, None, None]
            keys = k[rows, at].to(self.dtype).transpose(-1, -2).contiguous()
            return Softmax(scaled, keys, rows, at, mask)

        own = torch.full_like(heads, row)
        self.source: Softmax | None = None
        self.strength: Tensor | None = None
        if plan.source is not None:
            strength, source = plan.source.strength[row, heads], plan.source.rows[row].item()
            own = own.where(strength != 1, torch.full_like(heads, int(source)))
            if bool(((strength != 0) & (strength != 1)).any()):
                self.source = softmax(torch.full_like(heads, int(source)))
                self.strength = self._column(strength, q)
        self.own = softmax(own)
        self.mix: tuple[Tensor, Tensor] | None = None
        if plan.map is not None:
            identity, uniform = plan.map.identity[row, heads], plan.map.uniform[row, heads]
            if bool((identity != 0).any() or (uniform != 0).any()):
                self.mix = self._column(identity, q), self._column(uniform, q)

    @property
    def parts(self) -> list[Softmax]:
        return [self.own] if self.source is None else [self.own, self.source]

    def tiles(self, size: int | None = None) -> Iterator[Tile]:
        """M tile by tile; see Softmax.tiles."""
        if self.source is None:
            own = self.own.tiles(size)
            yield from own if self.mix is None else map(self._mixed, own)
            return
        for own, source in zip(self.own.tiles(size), self.source.tiles(size), strict=True):
            blended = self._blended(own, source)
            yield blended if self.mix is None else self._mixed(blended)

    def _blended(self, own: Tile, source: Tile) -> Tile:
        assert self.strength is not None
        mine = own.weights.div_(own.total[..., None])
        theirs = source.weights.div_(source.total[..., None])
        weights = torch.lerp(mine, theirs, self.strength.expand_as(mine))
        mass = torch.lerp(own.mass, source.mass, self.strength[..., 0].expand_as(own.mass))
        one = torch.ones_like(own.total)
        return replace(own, weights=weights, total=one, mass=mass, shifted=None)

    def _mixed(self, tile: Tile) -> Tile:
        assert self.mix is not None
        identity, uniform = self.mix
        weights = tile.weights.div_(tile.total[..., None]).mul_(1 - identity - uniform)
        diagonal = torch.arange(len(tile.queries), device=weights.device)
        if bool((identity != 0).any()):
            weights[:, diagonal, tile.queries] += identity[..., 0]
        if bool((uniform != 0).any()):
            weights += uniform * self._uniform(tile)
        one = torch.ones_like(tile.total)
        return replace(tile, weights=weights, total=one, mass=weights.sum(-1), shifted=None)

    def _uniform(self, tile: Tile) -> Tensor:
        own = replace(self.own, rows=torch.full_like(self.own.rows, self.row))
        if (bias := own.bias(tile.queries)) is None:
            return torch.full_like(tile.weights[:1, :1], 1 / self.keys).expand(1, 1, self.keys)
        allowed = (bias > LOWEST / 2).to(self.dtype)
        return allowed / allowed.sum(-1, keepdim=True).clamp_min(1)

    def _column(self, values: Tensor, like: Tensor) -> Tensor:
        return values.to(like.device, self.dtype)[:, None, None]


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
