"""The map of a joint attention whose video attends to itself by a plan of its own, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .tiles import LOWEST, Softmax, Tile


@dataclass
class Spliced:
    """A softmax whose scores of video queries on video keys are those of another softmax.

    outer: over all tokens. inner: the video alone, perhaps thinned. span: where the video lies.
    The log-sum-exps of both say how much of a row's mass is on video keys, before weights are
    dropped: what `inner` drops is lost, or goes to other video keys, never to the text. (Blocks are
    not dropped but hidden, as by a mask: all that is left of the row, text too, takes their share.)
    """

    outer: Softmax
    inner: Softmax
    span: slice

    def tiles(self, size: int | None = None) -> Iterator[Tile]:
        return map(self._spliced, self.outer.tiles(size))

    def _spliced(self, tile: Tile) -> Tile:
        here = video_queries(tile.queries, self.span)
        assert tile.shifted is not None
        scores, weights = tile.shifted[:, here], tile.weights[:, here]
        scores += (tile.lse - tile.log_total)[:, here, None].clamp_min(LOWEST)
        block = scores[..., self.span]
        allowed = tile.allowed[:, here] - (block > LOWEST / 2).sum(-1)
        part = self._inner_tile(tile, here, weights)
        allowed += part.allowed
        torch.add(part.logs, (part.lse.clamp_min(LOWEST) - part.log_total)[..., None], out=block)
        largest = scores.amax(-1)
        if part.dropped is not None:
            largest = torch.maximum(largest, part.lse)
        nowhere = allowed == 0
        scores.sub_(largest[..., None]).masked_fill_(nowhere[..., None], LOWEST)
        torch.exp(scores, out=weights)
        weights.masked_fill_(nowhere[..., None], 0)
        left = weights.sum(-1)
        total = left
        if part.dropped is not None:
            total = left + (1 - part.mass) * torch.exp(part.lse - largest)
        total = total.masked_fill(nowhere, 1)
        lse = (largest + total.log()).masked_fill(nowhere, -torch.inf)
        return replace(
            tile,
            total=_with(tile.total, here, total),
            mass=_with(tile.mass, here, left / total),
            lse=_with(tile.lse, here, lse),
            allowed=_with(tile.allowed, here, allowed),
            shifted=tile.shifted if part.dropped is None else None,
            peak=None,
            bounded=False,
            video=_with(
                torch.zeros_like(tile.total), here, torch.exp(part.lse - lse).nan_to_num(0)
            ),
        )

    def _inner_tile(self, tile: Tile, here: slice, weights: Tensor) -> Tile:
        """The video's own scores for the tile's video queries, in the tile's buffers."""
        at = tile.queries[here] - self.span.start
        shape = len(tile.weights), len(at), self.span.stop - self.span.start
        scores = tile.work.flatten()[: shape[0] * shape[1] * shape[2]].view(shape)
        return self.inner.tile(at, scores, weights[..., self.span], tile.work)


def video_queries(queries: Tensor, span: slice) -> slice:
    """Which of some queries, in rising order, are video."""
    ends = torch.tensor([span.start, span.stop], device=queries.device)
    return slice(*torch.searchsorted(queries, ends).tolist())


def _with(values: Tensor, here: slice, new: Tensor) -> Tensor:
    """values [G, t] with others in some places."""
    values = values.clone()
    values[:, here] = new
    return values
