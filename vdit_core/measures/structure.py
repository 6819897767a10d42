"""Where in the video the weight goes: pooled maps, frame distance, spatial distance, text."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..grid import TokenGrid


class VideoPart:
    """The video queries and video keys of a tile, taken once for the states below."""

    def __init__(self, grid: TokenGrid, queries: Tensor, weights: Tensor, share: Tensor) -> None:
        index = queries - grid.prefix
        inside = ((index >= 0) & (index < grid.video_tokens)).nonzero()[:, 0]
        if len(inside) < len(queries):
            index, weights, share = index[inside], weights[:, inside], share[:, inside]
        self.index = index  # [t] of the queries, among the video tokens
        self.share = share  # [G, t]
        self.weights = weights  # [G, t, Lk]
        self.grid = grid

    @cached_property
    def by_frame(self) -> Tensor:
        """Weights on video keys, [G, t, F, R·C]."""
        grid = self.grid
        return self.weights[..., grid.video].unflatten(-1, (grid.frames, grid.rows * grid.cols))

    @cached_property
    def frames(self) -> Tensor:
        """Mass on each frame, [G, t, F]; the pooled map fills it in where its bins tell."""
        return self.by_frame.sum(-1) * self.share[..., None]

    def mass(self, keys: slice) -> Tensor:
        """Mass on a run of keys, [G, t]."""
        return self.weights[..., keys].sum(-1) * self.share


class PooledMap:
    """Exact block means of the map on a grid's tokens, and the mass on all other keys.

    The grid may be a window of the whole one: some of its frames, the others outside.
    """

    def __init__(self, grid: TokenGrid, heads: int, size: int, device: torch.device) -> None:
        self.grid, self.bins = grid, grid.bins(size).to(device)
        self.counts = torch.bincount(self.bins)
        per_frame = grid.rows * grid.cols
        self.frame_bins = self.bins[::per_frame] if grid.frames > size else None
        self.to_bins = one_hot(self.bins[:per_frame])  # of one frame, [R·C, bins]
        m = len(self.counts)
        self.sums = torch.zeros(heads, m, m, dtype=torch.float64, device=device)
        self.others = torch.zeros(heads, m, dtype=torch.float64, device=device)

    def add(self, part: VideoPart) -> None:
        rows = self.bins[part.index]
        self.sums.index_add_(1, rows, self._pooled(part).double())
        start, stop = self.grid.video.start, self.grid.video.stop
        others = part.mass(slice(start)) + part.mass(slice(stop, None))
        self.others.index_add_(1, rows, others.double())

    def _pooled(self, part: VideoPart) -> Tensor:
        """Mass on each bin, [G, t, m]."""
        if self.frame_bins is not None:
            pooled = part.frames.new_zeros(*part.frames.shape[:2], len(self.counts))
            return pooled.index_add_(2, self.frame_bins, part.frames)
        each = self.to_bins.shape[1]
        if self.to_bins.shape[0] % each:
            pooled = part.by_frame @ self.to_bins.to(part.by_frame)
        else:
            pooled = part.by_frame.unflatten(-1, (each, -1)).sum(-1)
        pooled = pooled * part.share[..., None, None]
        part.frames = pooled.sum(-1)
        return pooled.flatten(-2)

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean weight per block [G, m, m], and per query bin the mass on other keys [G, m]."""
        counts = self.counts.double()
        return self.sums / (counts[:, None] * counts), self.others / counts


class FrameMass:
    """Mean mass of the video queries of each frame on the video keys of each frame."""

    def __init__(self, grid: TokenGrid, heads: int, device: torch.device) -> None:
        self.grid = grid
        shape = heads, grid.frames, grid.frames
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)

    def add(self, part: VideoPart) -> None:
        frame = part.index // (self.grid.rows * self.grid.cols)
        self.sums.index_add_(1, frame, part.frames.double())

    def result(self) -> Tensor:
        """[G, F, F], a row for each frame that looks."""
        return self.sums / (self.grid.rows * self.grid.cols)

    def by_distance(self) -> Tensor:
        """[G, F], entry d is the mass on frames d before or after the query's own."""
        return by_frame_distance(self.sums) / self.grid.video_tokens


class SpatialDistance:
    """Mean mass of video queries on video keys by distance in the picture, whatever the frame."""

    def __init__(self, grid: TokenGrid, heads: int, device: torch.device) -> None:
        self.grid, self.places = grid, grid.rows * grid.cols
        self.sums = torch.zeros(heads, self.places, self.places, device=device)
        self._buffer = self.sums.new_empty(0)  # a new one for each tile costs more than the sums

    def add(self, part: VideoPart) -> None:
        shape = *part.share.shape, self.places
        if self._buffer.numel() < math.prod(shape) or self._buffer.dtype != part.weights.dtype:
            self._buffer = part.weights.new_empty(math.prod(shape))
        places = self._buffer[: math.prod(shape)].view(shape)
        torch.sum(part.by_frame, -2, out=places).mul_(part.share[..., None])
        self.sums.index_add_(1, part.index % self.places, places.to(self.sums))

    def result(self) -> Tensor:
        """[G, n], entry d is the mass at a distance of d tokens (Euclidean, rounded)."""
        return by_spatial_distance(self.sums, self.grid) / self.grid.video_tokens


class TextMass:
    """Mean mass of the queries on each token of a run of keys, [G, T]."""

    def __init__(self, keys: slice, heads: int, device: torch.device) -> None:
        self.keys, self.rows = keys, 0
        self.sums = torch.zeros(heads, keys.stop - keys.start, dtype=torch.float64, device=device)

    def add(self, weights: Tensor, share: Tensor) -> None:
        self.sums += (share[:, None] @ weights[..., self.keys])[:, 0]
        self.rows += share.shape[1]

    def result(self) -> Tensor:
        return self.sums / max(1, self.rows)


def by_frame_distance(sums: Tensor) -> Tensor:
    """Sum over pairs of frames equally far apart, [G, F, F] → [G, F] float64."""
    return _by_offset(sums.double(), 1, 2)


def by_spatial_distance(sums: Tensor, grid: TokenGrid) -> Tensor:
    """Sum over pairs of places equally far apart, Euclidean, rounded. [G, R·C, R·C] → [G, n]."""
    each = grid.rows, grid.cols
    by_row = _by_offset(sums.unflatten(2, each).unflatten(1, each), 1, 3)  # [G, rows, C, C]
    offsets = _by_offset(by_row.double(), 2, 3)  # [G, rows apart, cols apart]
    row, col = (torch.arange(n, device=sums.device) for n in each)
    distance = torch.hypot(row[:, None].float(), col.float()).round_().long()
    found = offsets.new_zeros(len(sums), int(distance.max()) + 1)
    return found.index_add_(1, distance.flatten(), offsets.flatten(1))


def _by_offset(sums: Tensor, first: int, second: int) -> Tensor:
    """Sum over pairs of indices of two axes with equal |i − j|, which is then axis `first`."""
    parts: list[Tensor] = []
    for offset in range(sums.shape[first]):
        part = sums.diagonal(offset, first, second).sum(-1)
        if offset:
            part = part + sums.diagonal(-offset, first, second).sum(-1)
        parts.append(part)
    return torch.stack(parts, first)
