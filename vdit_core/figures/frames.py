"""Frames along the axes of a pooled map: where they begin, what fits into how many pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from matplotlib.colors import to_rgb
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from ..grid import TokenGrid
from ..record import Header
from ..sites import Excerpt
from .canvas import ACCENT

_NARROWEST = 7  # pixels of a frame between whose lines the map can still be seen


@dataclass(frozen=True)
class FrameAxis:
    """One axis of a map of a grid, pooled to at most `map_size` bins, in about `room` pixels.

    numbers: of the grid's frames in the video; empty for 0, 1, 2 …
    """

    grid: TokenGrid
    map_size: int
    room: int
    numbers: tuple[int, ...] = ()

    @classmethod
    def of(cls, header: Header, excerpt: Excerpt | None, room: int) -> FrameAxis:
        """The axis of a record's maps, which may show a few frames only."""
        numbers: tuple[int, ...] = ()
        if header.window:
            numbers = tuple(range(header.window[0], header.window[1] + 1))
        elif excerpt and len(excerpt.frames) == header.grid.frames:
            numbers = excerpt.frames
        return cls(header.map_grid, header.map_size, room, numbers)

    @cached_property
    def _firsts(self) -> list[int]:
        """The bin of each frame's first token."""
        zero = torch.tensor(0)
        firsts = self.grid.ravel(torch.arange(self.grid.frames), zero, zero) - self.grid.prefix
        return self._bins[firsts].tolist()

    @cached_property
    def _bins(self) -> Tensor:
        return self.grid.bins(self.map_size)

    @cached_property
    def measured(self) -> int:
        """Bins the record has."""
        return int(self._bins.max()) + 1

    @cached_property
    def bins(self) -> int:
        """Bins that are shown: those of the record, or as many whole parts of frames as fit."""
        if self.measured <= self.room:
            return self.measured
        return self.grid.frames * max(1, self.room // self.grid.frames)

    @property
    def side(self) -> int:
        """Length in pixels, the multiple of the bins nearest to the room."""
        return self.bins * max(1, round(self.room / self.bins))

    def edges(self) -> list[int]:
        """The shown bin at which each frame begins; frames that share a bin begin together."""
        return [first * self.bins // self.measured for first in self._firsts]

    def lines(self) -> list[int]:
        """Bins before which a line separates two frames; none where lines would hide the map."""
        edges = sorted(set(self.edges()))[1:]
        narrow = self.side < _NARROWEST * self.grid.frames
        return [] if narrow else edges

    def labels(self, room: int) -> tuple[list[float], list[str]]:
        """Pixel places and numbers of frames, each with `room` pixels or more to itself."""
        cell = self.side / self.bins
        starts = [edge * cell for edge in self.edges()] + [self.side]
        width = self.side / self.grid.frames
        every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 10**9) if n * width >= room)
        shown = range(0, self.grid.frames, every)
        names = [str(self.numbers[n] if self.numbers else n) for n in shown]
        return [(starts[n] + starts[n + 1]) / 2 for n in shown], names

    def fit(self, weights: Tensor) -> Tensor:
        """[measured, measured] → [bins, bins]."""
        if self.bins == self.measured:
            return weights
        return adaptive_avg_pool2d(weights[None], (self.bins, self.bins))[0]

    def fit_profile(self, values: Tensor) -> Tensor:
        """[measured] → [bins]."""
        if self.bins == self.measured:
            return values
        return adaptive_avg_pool1d(values[None], self.bins)[0]


def profile(shares: Tensor, width: int, height: int) -> Tensor:
    """Horizontal bars for shares [m] of 0..1, one below the other, [height, width, 3]."""
    lengths = (shares.clamp(0, 1) * width).round().repeat_interleave(height // len(shares))
    filled = torch.arange(width) < lengths[:, None]
    return torch.where(filled[..., None], torch.tensor(to_rgb(ACCENT)), torch.tensor(0.93))
