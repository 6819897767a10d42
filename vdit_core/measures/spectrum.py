"""What the sizes of the weights say: exact quantile, mass kept against rate, keys for 95 %.

All of it is read off the sorted rows of a tile. The quantile of a head's whole matrix takes one
pass and little memory (Munro and Paterson 1980): rows come in a fair order, so the rows so far tell
between which two values the quantile lies; what is below is counted, what is between is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from .sorted_rows import SortedRows, sort_in_place

T = TypeVar("T")
MARGINS = (5.0, 30.0, math.inf)  # standard errors kept around the quantile; the last is safe
SAMPLE = 16  # rows of the first tile that give a first guess of the interval
SPARE = 64  # entries kept on either side of the quantile beyond what the spread of rows asks
CURVE = tuple(range(-16, 9, 2))  # weights 2^j / Lk at which the curve is measured


@dataclass(frozen=True)
class Quantile:
    """log_weight: the threshold. below, mass: count and sum of the weights strictly below it.

    entries, rows: how many allowed entries there are, and rows that attend anywhere.
    """

    log_weight: float
    below: int
    mass: float
    entries: int
    rows: int

    @property
    def threshold(self) -> float:
        return math.exp(self.log_weight)

    @property
    def realised_rate(self) -> float:
        return self.below / self.entries

    @property
    def mass_lost(self) -> float:
        return self.mass / self.rows


class Missed(Exception):
    """The quantile lay outside what was kept: the rows were not the fair sample they should be."""


class Selection:
    """The exact quantile of one head's allowed weights at `rate`, in one pass over fair tiles.

    rows: how many will be added. margin: how many standard errors around the sample quantile are
    kept; infinite keeps everything.
    """

    def __init__(self, rate: float, rows: int, margin: float = MARGINS[0]) -> None:
        self.rate, self.rows, self.margin = rate, rows, margin
        self.bounds: Tensor | None = None  # log weights between which the quantile must lie
        self.seen = 0  # rows
        self.attending = 0  # rows that attend anywhere
        self.entries = 0
        self.below = 0
        self.mass = 0.0
        self.kept: list[_Values] = []
        self.held = 0
        self.limit = 0

    def add(self, rows: SortedRows) -> None:
        if self.bounds is None and len(rows.values) > SAMPLE:
            first_guess = Selection(self.rate, self.rows, self.margin)
            first_guess.add(rows.some(SAMPLE))
            self.bounds = first_guess.bounds
        first, last = rows.ignored, rows.ignored + rows.allowed
        if self.bounds is not None:
            counts, masses = rows.below(self.bounds)
            first, last = counts.unbind(-1)
            self.below += int((first - rows.ignored).sum())
            self.mass += float(masses[:, 0].sum())
        values = rows.between(first, last)
        self.kept.append(_Values(values))
        self.held += len(values)
        self.seen += len(first)
        self.entries += int(rows.allowed.sum())
        self.attending += int((rows.allowed > 0).sum())
        if self.seen < self.rows and self.held > self.limit:
            self._narrow(rows)

    def result(self) -> Quantile:
        """Raises Missed."""
        if not self.entries:  # the mask lets nothing through
            return Quantile(-math.inf, 0, 0.0, 1, 1)
        kept = _merged(self.kept)
        place = kept.run(quantile_place(self.rate, self.entries) - self.below).start
        less = kept[:place]
        below = self.below + less.entries
        mass = self.mass + less.mass
        return Quantile(float(kept.values[place]), below, mass, self.entries, self.attending)

    def _narrow(self, rows: SortedRows) -> None:
        """Keep only what can still be the quantile of all rows."""
        kept = _merged(self.kept)
        target = quantile_place(self.rate, self.entries) - self.below
        estimate = kept.values[kept.run(target).start]
        shares = (rows.below(estimate[None])[0][:, 0] - rows.ignored) / rows.allowed.clamp_min(1)
        spread = float((shares.double() - self.rate).square().mean())
        reach = self.margin * math.sqrt(spread * (1 / self.seen - 1 / self.rows))
        away = SPARE + (int(reach * self.entries) if math.isfinite(reach) else self.entries)
        start = kept.run(max(target - away, 0)).start
        stop = kept.run(min(target + away, self.held - 1)).stop
        low, high = kept.values[start], kept.values[stop - 1]
        low = low if start else torch.full_like(low, -math.inf)
        high = high if stop < len(kept.values) else torch.full_like(high, math.inf)
        self.bounds = _widened(low, high)
        dropped = kept[:start]
        self.below += dropped.entries
        self.mass += dropped.mass
        self.kept = [kept[start:stop]]
        self.held = self.kept[0].entries
        self.limit = 4 * self.held


@dataclass(frozen=True)
class _Values:
    """Log weights, and how often each occurs; None = once each."""

    values: Tensor
    counts: Tensor | None = None

    def __getitem__(self, part: slice) -> _Values:
        return _Values(self.values[part], None if self.counts is None else self.counts[part])

    @property
    def entries(self) -> int:
        return len(self.values) if self.counts is None else int(self.counts.sum())

    @property
    def mass(self) -> float:
        weights = self.values.double().exp()
        return float((weights if self.counts is None else weights * self.counts).sum())

    def run(self, entry: int) -> slice:
        """The run of values equal to the entry-th, counted from 0. Raises Missed."""
        if not 0 <= entry < self.entries:
            raise Missed
        if self.counts is not None:
            index = int(torch.searchsorted(self.counts.cumsum(0), entry, right=True))
            return slice(index, index + 1)
        first, past = (
            int(torch.searchsorted(self.values, self.values[entry], right=right))
            for right in (False, True)
        )
        return slice(first, past)


def _merged(parts: list[_Values]) -> _Values:
    """All values in order. A flat map is few values, each counted, however many entries it has."""
    counted = [part for part in parts if part.counts is not None]
    single = torch.cat([parts[0].values[:0], *(p.values for p in parts if p.counts is None)])
    sort_in_place(single)  # before anything is counted: the vectorised sort takes values alone
    if not counted and single.diff().count_nonzero() > len(single) // 8:
        return _Values(single)
    counted.append(_Values(*single.unique_consecutive(return_counts=True)))
    values, order = torch.cat([part.values for part in counted]).sort()
    once, index = values.unique_consecutive(return_inverse=True)
    counts = torch.cat([part.counts for part in counted if part.counts is not None])
    total = torch.zeros_like(once, dtype=torch.int64).index_add_(0, index, counts[order])
    return _Values(once, total)


def _widened(low: Tensor, high: Tensor) -> Tensor:
    """[2] bounds a few roundings apart, so that a value equal to one of them lies inside."""
    bounds = torch.stack([low, high])
    slack = 8 * torch.finfo(bounds.dtype).eps * (bounds.abs() + 16)
    return torch.stack([low - slack[0], high + slack[1]])


def until_found(select: Callable[[float], T]) -> T:
    """The answer of a selection at ever wider margins; the last keeps everything."""
    for margin in MARGINS[:-1]:
        try:
            return select(margin)
        except Missed:
            continue
    return select(MARGINS[-1])


def quantile_place(rate: float, entries: int) -> int:
    """Place of the quantile among `entries` sorted weights, counted from 0."""
    return min(int(rate * entries), entries - 1)


class Curve:
    """Share of a head's weights below 2^j / Lk and the mass they hold, at each j of CURVE."""

    def __init__(self, keys: int) -> None:
        self.at = torch.tensor([j * math.log(2) - math.log(keys) for j in CURVE])
        self.counts = torch.zeros(len(CURVE), dtype=torch.float64)
        self.masses = torch.zeros(len(CURVE), dtype=torch.float64)
        self.entries = 0
        self.rows = 0

    def add(self, rows: SortedRows) -> None:
        counts, masses = rows.below(self.at.to(rows.values))
        self.counts += (counts - rows.ignored[:, None]).sum(0).cpu()
        self.masses += masses.sum(0).cpu()
        self.entries += int(rows.allowed.sum())
        self.rows += int((rows.allowed > 0).sum())

    def result(self) -> Tensor:
        """[2, len(CURVE)]: rate, and share of the mass kept when all below is dropped."""
        rate = self.counts / max(1, self.entries)
        return torch.stack([rate, 1 - self.masses / max(1, self.rows)])
