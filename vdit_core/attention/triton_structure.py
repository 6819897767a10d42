"""Where the weight goes: the sums of runs of queries, put together to maps and distances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..grid import TokenGrid
from ..measures.structure import by_spatial_distance
from .question import Question

OUTSIDE = -1  # the frame of a query that is not video, the bin of one that is not in the map


@dataclass(frozen=True)
class Runs:
    """Runs of neighbouring queries, none across the border of a frame, a bin or the text.

    bounds: [S + 1] int32. frame, bin: [S] of each run, or OUTSIDE. text: [S] 1 where it is asked
    what text queries do and the run is text, else OUTSIDE.
    """

    bounds: Tensor
    frame: Tensor
    bin: Tensor
    text: Tensor

    @classmethod
    def of(cls, question: Question, queries: int) -> Runs:
        labels = torch.full((3, max(queries, len(question.grid or ()))), OUTSIDE)
        if (grid := question.grid) is not None:
            video = torch.arange(grid.video.start, grid.video.stop)
            labels[0, grid.video] = grid.unravel(video)[0]
            labels[1, question.map_grid.video] = question.map_grid.bins(question.map_size)
        if question.text is not None and question.asks("text_own_mass"):
            labels[2, question.text] = 1
        labels = labels[:, :queries]
        starts = (labels.diff() != 0).any(0).nonzero()[:, 0] + 1
        bounds = torch.cat([starts.new_tensor([0]), starts, starts.new_tensor([queries])])
        return cls(bounds.int(), *labels[:, bounds[:-1]])

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def lengths(self) -> Tensor:
        return self.bounds.diff()


def text_mass(sums: Tensor, runs: Runs, text: slice, grid: TokenGrid | None) -> Tensor:
    """Mean mass of the video queries (of all, without a grid) on each text key, [n, T].

    sums: [n, S, Lk], here and below: what each key receives from each run of queries.
    """
    counted = runs.frame != OUTSIDE if grid is not None else torch.ones_like(runs.frame).bool()
    part = sums[:, counted.to(sums.device), text].sum(1, dtype=torch.float64)
    return part / max(1, int(runs.lengths[counted].sum()))


def text_own_mass(sums: Tensor, runs: Runs, text: slice) -> Tensor:
    """Mean mass of the text's queries on each text key, [n, T]."""
    counted = runs.text != OUTSIDE
    part = sums[:, counted.to(sums.device), text].sum(1, dtype=torch.float64)
    return part / max(1, int(runs.lengths[counted].sum()))


def frame_mass(sums: Tensor, runs: Runs, grid: TokenGrid) -> Tensor:
    """Mean mass of a query of each frame on the keys of each frame, [n, F, F]."""
    video = runs.frame != OUTSIDE
    keys = sums[:, video.to(sums.device), grid.video].unflatten(-1, (grid.frames, -1))
    by_frame = keys.sum(-1, dtype=torch.float64)
    found = by_frame.new_zeros(len(sums), grid.frames, grid.frames)
    found.index_add_(1, runs.frame[video].to(sums.device), by_frame)
    return found / (grid.rows * grid.cols)


def pooled_map(sums: Tensor, runs: Runs, question: Question) -> tuple[Tensor, Tensor]:
    """Mean weight per block of bins [n, m, m], and per query bin the mass elsewhere [n, m]."""
    grid, device = question.map_grid, sums.device
    bins = grid.bins(question.map_size)
    counts = bins.bincount().to(device, torch.float64)
    inside = runs.bin != OUTSIDE
    part = sums[:, inside.to(device)].double()
    rows, cols, m = runs.bin[inside].to(device), bins.to(device), len(counts)
    by_key = part.new_zeros(*part.shape[:2], m).index_add_(2, cols, part[..., grid.video])
    pooled = part.new_zeros(len(part), m, m).index_add_(1, rows, by_key)
    left = part[..., : grid.video.start].sum(-1) + part[..., grid.video.stop :].sum(-1)
    others = part.new_zeros(len(part), m).index_add_(1, rows, left)
    return pooled / (counts[:, None] * counts), others / counts


def spatial_distance(sums: Tensor, grid: TokenGrid) -> Tensor:
    """Mean mass of a video query by distance in the picture, from [n, places, places]; [n, d]."""
    return by_spatial_distance(sums, grid) / grid.video_tokens
