"""All statistics in one pass over tiles of the map, in plain torch on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..measures.columns import ColumnStatistics, value_norms
from ..measures.rows import RowStatistics
from ..measures.spectrum import MARGINS, Curve, Selection, until_found
from ..measures.structure import FrameMass, PooledMap, SpatialDistance, TextMass, VideoPart
from ..plan import AttentionPlan
from .heads import HeadGroup
from .question import Question
from .results import Measures
from .thin import thinned_group
from .tiles import Tile, heads_at_once
from .workers import side_by_side


def streaming_measure(
    question: Question,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    mask: Tensor | None,
    scale: float | None,
    plan: AttentionPlan,
    rows: list[int],
    heads: Tensor,
    tile: int | None = None,
) -> Measures:
    """One pass over the map of each group of heads; a second only where a quantile was missed."""

    def measured(row: int, some: Tensor) -> dict[str, Tensor]:
        group = thinned_group(q, k, plan, row, some, mask, scale)
        values = None if v is None else v[row, some.to(v.device)]
        problem = _Problem(question, group, values)
        return until_found(partial(_measured, problem, tile))

    each = heads_at_once(q.device, q.shape[2], k.shape[2])
    found = side_by_side(measured, list(product(rows, heads.split(each))), q.device)
    shape = len(rows), len(heads)
    parts = {name: torch.cat([part[name] for part in found]) for name in question.wants}
    return Measures(**{name: part.unflatten(0, shape) for name, part in parts.items()})


@dataclass(frozen=True)
class _Problem:
    """A group of heads and what is asked of it. v: [G, Lk, Dv] or None."""

    question: Question
    group: HeadGroup
    v: Tensor | None
    margin: float = MARGINS[0]

    @property
    def heads(self) -> int:
        return len(self.group.heads)

    @property
    def device(self) -> torch.device:
        return self.group.own.q.device


def _measured(problem: _Problem, tile: int | None, margin: float) -> dict[str, Tensor]:
    each = replace(problem, margin=margin)
    readers = [make(each) for fields, make in READERS if problem.question.asks(*fields)]
    for piece in problem.group.tiles(tile):
        share = piece.mass.sign() / piece.total  # 0 for a row that attends nowhere
        for reader in readers:
            reader.add(piece, share)
    results = [reader.results() for reader in readers]
    return {name: value for found in results for name, value in found.items()}


class _Reader(Protocol):
    """A state fed by tiles. results: by field name, the first axis is the group's heads."""

    def add(self, tile: Tile, share: Tensor) -> None: ...
    def results(self) -> dict[str, Tensor]: ...


class _Output:
    def __init__(self, problem: _Problem) -> None:
        assert problem.v is not None
        self.v, self.dtype = problem.v.to(problem.group.dtype), problem.v.dtype
        self.out = self.v.new_zeros(problem.heads, problem.group.queries, self.v.shape[-1])

    def add(self, tile: Tile, share: Tensor) -> None:
        self.out[:, tile.queries] = tile.weights @ self.v * share[..., None]

    def results(self) -> dict[str, Tensor]:
        energy = self.out.double().square().sum((1, 2))
        return {"out": self.out.to(self.dtype), "energy": energy}


class _Rows:
    def __init__(self, problem: _Problem) -> None:
        group, self.device = problem.group, problem.device
        self.state = RowStatistics(problem.heads, group.queries, group.dtype, self.device)
        self.logs = problem.question.asks("entropy")

    def add(self, tile: Tile, share: Tensor) -> None:
        self.state.add(tile.queries, tile.largest, tile.lse)
        if self.logs:
            self.state.add_entropy(tile.queries, _products(tile), share, tile.mass)

    def results(self) -> dict[str, Tensor]:
        s = self.state
        return {"lse": s.lse, "entropy": s.entropy, "max_weight": s.max_weight}


def _products(tile: Tile) -> Tensor:
    """Σ w log w of each row, [G, t]."""
    if tile.weights.device.type == "cpu":  # one pass instead of two; numpy 1 has no vecdot
        rows, columns = tile.weights.numpy()[..., None, :], tile.logs.numpy()[..., None]
        return torch.from_numpy(np.matmul(rows, columns)[..., 0, 0])
    return torch.mul(tile.weights, tile.logs, out=tile.work).sum(-1)


class _Columns:
    def __init__(self, problem: _Problem) -> None:
        keys, tau = problem.group.keys, problem.question.tau
        self.state, self.v = ColumnStatistics(problem.heads, keys, tau, problem.device), problem.v

    def add(self, tile: Tile, share: Tensor) -> None:
        self.state.add(tile.weights, share, tile.largest)

    def results(self) -> dict[str, Tensor]:
        coverage, key = self.state.coverage()
        found = {"column_sums": self.state.sums, "coverage": coverage, "coverage_key": key}
        return found if self.v is None else found | {"value_norms": value_norms(self.v, key)}


class _Structure:
    def __init__(self, problem: _Problem) -> None:
        question, heads, device = problem.question, problem.heads, problem.device
        assert question.grid is not None
        self.grid, self.map_grid = question.grid, question.map_grid
        self.pooled = self.frames = self.places = None
        if question.asks("pooled_map", "other_mass"):
            self.pooled = PooledMap(self.map_grid, heads, question.map_size, device)
        if question.asks("frame_distance_mass", "frame_mass"):
            self.frames = FrameMass(self.grid, heads, device)
        if question.asks("spatial_distance_mass"):
            self.places = SpatialDistance(self.grid, heads, device)

    def add(self, tile: Tile, share: Tensor) -> None:
        part = VideoPart(self.grid, tile.queries, tile.weights, share)
        if self.pooled is not None:
            whole = self.map_grid == self.grid
            window = part if whole else VideoPart(self.map_grid, tile.queries, tile.weights, share)
            self.pooled.add(window)
        if self.frames is not None:
            self.frames.add(part)
        if self.places is not None:
            self.places.add(part)

    def results(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if self.pooled is not None:
            found["pooled_map"], found["other_mass"] = self.pooled.result()
        if self.frames is not None:
            found["frame_distance_mass"] = self.frames.by_distance()
            found["frame_mass"] = self.frames.result()
        if self.places is not None:
            found["spatial_distance_mass"] = self.places.result()
        return found


class _Text:
    def __init__(self, problem: _Problem) -> None:
        assert problem.question.text is not None
        text = self.text = problem.question.text
        self.state = TextMass(text, problem.heads, problem.device)
        asked = problem.question.asks("text_own_mass")
        self.own = TextMass(text, problem.heads, problem.device) if asked else None
        self.grid = problem.question.grid

    def add(self, tile: Tile, share: Tensor) -> None:
        if self.grid is None or len(self.grid) == self.grid.video_tokens:
            self.state.add(tile.weights, share)
        else:
            part = VideoPart(self.grid, tile.queries, tile.weights, share)
            self.state.add(part.weights, part.share)
        if self.own is not None:
            here = (tile.queries >= self.text.start) & (tile.queries < self.text.stop)
            self.own.add(tile.weights[:, here], share[:, here])

    def results(self) -> dict[str, Tensor]:
        found = {"text_mass": self.state.result()}
        return found if self.own is None else found | {"text_own_mass": self.own.result()}


class _Spectrum:
    """Everything read off sorted rows, head by head. Uses the tile up: the last reader."""

    def __init__(self, problem: _Problem) -> None:
        group, question, heads = problem.group, problem.question, range(problem.heads)
        self.few: list[list[Tensor]] = [[] for _ in heads]
        self.curves = [Curve(group.keys) for _ in heads]
        self.selections = [Selection(question.rate, group.queries, problem.margin) for _ in heads]
        self.asks, self.device = question.asks, problem.device
        self.mass = torch.zeros(problem.heads, dtype=torch.float64, device=problem.device)
        self.attending = torch.zeros_like(self.mass)

    def add(self, tile: Tile, share: Tensor) -> None:
        self.mass += tile.mass.sum(-1, dtype=torch.float64)
        self.attending += (tile.allowed > 0).sum(-1)
        for head in range(len(self.curves)):
            rows = tile.sorted(head)
            if self.asks("keys_for_95"):
                self.few[head].append(rows.keys_for(0.95)[rows.allowed > 0])
            if self.asks("mass_curve"):
                self.curves[head].add(rows)
            if self.asks("threshold", "realised_rate", "mass_lost"):
                self.selections[head].add(rows)

    def results(self) -> dict[str, Tensor]:
        found: dict[str, list[object]] = {}
        if self.asks("keys_for_95"):
            found["keys_for_95"] = [torch.cat(few).mean(dtype=torch.float64) for few in self.few]
        each = self.attending / self.mass.clamp_min(1e-300)  # not 1 where weights were dropped
        if self.asks("mass_curve"):
            curves = torch.stack([curve.result() for curve in self.curves])
            curves[:, 1] = 1 - (1 - curves[:, 1]) * each.cpu()[:, None]
            found["mass_curve"] = list(curves)
        if self.asks("threshold", "realised_rate", "mass_lost"):
            quantiles = [selection.result() for selection in self.selections]
            for name in ("threshold", "realised_rate"):
                found[name] = [getattr(quantile, name) for quantile in quantiles]
            lost = zip(quantiles, each.tolist(), strict=True)
            found["mass_lost"] = [quantile.mass_lost * one for quantile, one in lost]
        return {name: self._stacked(values) for name, values in found.items()}

    def _stacked(self, values: list[object]) -> Tensor:
        return torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in values]).to(
            self.device
        )


READERS: tuple[tuple[tuple[str, ...], Callable[[_Problem], _Reader]], ...] = (
    (("out", "energy"), _Output),
    (("lse", "entropy", "max_weight"), _Rows),
    (("column_sums", "coverage", "coverage_key", "value_norms"), _Columns),
    (
        ("pooled_map", "other_mass", "frame_distance_mass", "spatial_distance_mass", "frame_mass"),
        _Structure,
    ),
    (("text_mass", "text_own_mass"), _Text),
    (("threshold", "realised_rate", "mass_lost", "mass_curve", "keys_for_95"), _Spectrum),
)
