"""The map of a plan for some heads of one batch row, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..plan import AttentionPlan
from .masks import cut
from .splice import Spliced, video_queries
from .tiles import LOWEST, Softmax, Tile


class HeadGroup:
    """The map M of some heads of one batch row.

    own: softmax of the row, or of its source for heads that follow it in full. source: where heads
    follow in part. strength, identity, uniform, gate: [G, 1, 1] or None. video: what the video does
    among itself, at `span`; its gate is in the map, that of all tokens is not.
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
        self.gate = None if plan.gate is None else self._column(plan.gate[row, heads], q)
        self.video: HeadGroup | None = None
        if plan.video is not None and plan.span is not None:
            span = self.span = plan.span
            part = q[:, :, span], k[:, :, span], plan.alone, row, heads
            self.video = HeadGroup(*part, cut(mask, span, span), scale)

    @property
    def thinnable(self) -> list[Softmax]:
        """The softmaxes of which weights may be dropped."""
        if self.video is not None:
            return self.video.thinnable
        return [self.own] if self.source is None else [self.own, self.source]

    def tiles(self, size: int | None = None) -> Iterator[Tile]:
        """M tile by tile; see Softmax.tiles."""
        if self.video is None:
            parts, strength = self.thinnable, self.strength
        else:
            parts = [Spliced(self.own, part, self.span) for part in self.thinnable]
            strength = self.video.strength
        for tile, *source in zip(*(part.tiles(size) for part in parts), strict=True):
            for other in source:
                assert strength is not None
                tile = _blended(tile, other, strength)
            if self.video is not None:
                tile = self._with_video(tile, self.video)
            yield tile if self.mix is None else self._mixed(tile)

    def _with_video(self, tile: Tile, video: HeadGroup) -> Tile:
        """The video's map among itself mixed and gated; its rows keep their mass on the rest."""
        if video.mix is None and video.gate is None:
            return tile
        here = video_queries(tile.queries, self.span)
        assert tile.video is not None
        weights = tile.weights.div_(tile.total[..., None])
        block, at = weights[:, here, self.span], tile.queries[here] - self.span.start
        if video.mix is not None:
            video.mix_into(block, at, tile.video[:, here, None])
        if video.gate is not None:
            block *= video.gate
        return _written(tile, weights)

    def _mixed(self, tile: Tile) -> Tile:
        weights = tile.weights.div_(tile.total[..., None])
        self.mix_into(weights, tile.queries, torch.ones_like(weights[:1, :1, :1]))
        return _written(tile, weights)

    def mix_into(self, weights: Tensor, at: Tensor, mass: Tensor) -> None:
        """Put identity and uniform maps of this mass into the rows of the queries `at`."""
        assert self.mix is not None
        identity, uniform = self.mix
        weights.mul_(1 - identity - uniform)
        diagonal = torch.arange(len(at), device=weights.device)
        if bool((identity != 0).any()):
            weights[:, diagonal, at] += (identity * mass)[..., 0]
        if bool((uniform != 0).any()):
            weights += uniform * mass * self._uniform(at)

    def _uniform(self, at: Tensor) -> Tensor:
        own = replace(self.own, rows=torch.full_like(self.own.rows, self.row))
        if (bias := own.bias(at)) is None:
            return own.q.new_full((1, 1, self.keys), 1 / self.keys)
        allowed = (bias > LOWEST / 2).to(self.dtype)
        return allowed / allowed.sum(-1, keepdim=True).clamp_min(1)

    def _column(self, values: Tensor, like: Tensor) -> Tensor:
        return values.to(like.device, self.dtype)[:, None, None]


def _blended(own: Tile, source: Tile, strength: Tensor) -> Tile:
    """(1 − s) · own + s · source. strength: [G, 1, 1]."""
    mine = own.weights.div_(own.total[..., None])
    theirs = source.weights.div_(source.total[..., None])
    weights = torch.lerp(mine, theirs, strength.expand_as(mine))

    def lerp(a: Tensor, b: Tensor) -> Tensor:
        return torch.lerp(a, b, strength[..., 0].expand_as(a))

    video = None
    if own.video is not None and source.video is not None:
        video = lerp(own.video, source.video)
    one, mass = torch.ones_like(own.total), lerp(own.mass, source.mass)
    return own.rewritten(weights=weights, total=one, mass=mass, video=video)


def _written(tile: Tile, weights: Tensor) -> Tile:
    """The tile with other weights, which are final."""
    one = torch.ones_like(tile.total)
    return tile.rewritten(weights=weights, total=one, mass=weights.sum(-1))
