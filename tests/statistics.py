"""Every statistic of `measure`, read off one head's dense float64 map by the plainest means.

Written from the definitions alone: loops over rows and keys, nothing of the engine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

CURVE_POWERS = range(-16, 9, 2)


@dataclass(frozen=True)
class Place:
    """A video in a sequence: `before` other tokens, frames × rows × cols, then others."""

    frames: int
    rows: int
    cols: int
    before: int = 0

    def tokens(self) -> list[tuple[int, int, int, int]]:
        """(token, frame, row, col) of every video token."""
        places = product(range(self.frames), range(self.rows), range(self.cols))
        return [(self.before + i, *place) for i, place in enumerate(places)]


def of_rows(weights: Tensor) -> dict[str, Tensor]:
    """weights: [Lq, Lk] float64 of one head, as are all below."""
    entropy = [-sum(p * math.log(p) for p in row if p > 0) for row in weights.tolist()]
    return {"entropy": torch.tensor(entropy), "max_weight": weights.max(1).values}


def of_columns(weights: Tensor, v: Tensor, tau: float) -> dict[str, Tensor]:
    heavy = [sum(p >= tau for p in column) for column in weights.T.tolist()]
    sums = weights.sum(0)
    key = max(range(len(heavy)), key=lambda j: (heavy[j], float(sums[j])))
    norms = v.double().pow(2).sum(1).sqrt()
    others = [norms[j] for j in range(len(norms)) if j != key]
    away = torch.stack(others).mean() if others else torch.tensor(0.0)
    return {
        "column_sums": sums,
        "coverage": torch.tensor(heavy[key] / len(weights)),
        "coverage_key": torch.tensor(key),
        "value_norms": torch.stack([norms[key], away.double()]),
    }


def of_sizes(weights: Tensor, allowed: Tensor, rate: float) -> dict[str, Tensor]:
    """allowed: [Lq, Lk] bool."""
    flat = sorted(weights[allowed].tolist())
    threshold = flat[min(int(rate * len(flat)), len(flat) - 1)]
    below = [p for p in flat if p < threshold]
    few: list[float] = []
    for row, may in zip(weights, allowed, strict=True):
        if not bool(may.any()):
            continue
        largest, held, count = sorted(row[may].tolist(), reverse=True), 0.0, 0
        while held < 0.95 * sum(largest) and count < len(largest):
            held, count = held + largest[count], count + 1
        few.append(max(1, count) / len(largest))
    total, keys = math.fsum(flat), weights.shape[1]
    curve = torch.zeros(2, len(CURVE_POWERS), dtype=torch.float64)
    for n, power in enumerate(CURVE_POWERS):
        under = [p for p in flat if p < 2.0**power / keys]
        curve[0, n], curve[1, n] = len(under) / len(flat), 1 - math.fsum(under) / total
    return {
        "threshold": torch.tensor(threshold, dtype=torch.float64),
        "realised_rate": torch.tensor(len(below) / len(flat), dtype=torch.float64),
        "mass_lost": torch.tensor(math.fsum(below) / total, dtype=torch.float64),
        "keys_for_95": torch.tensor(sum(few) / len(few), dtype=torch.float64),
        "mass_curve": curve,
    }


def of_places(weights: Tensor, place: Place) -> dict[str, Tensor]:
    tokens = place.tokens()
    far = round(math.hypot(place.rows - 1, place.cols - 1))
    by_frame = torch.zeros(place.frames, dtype=torch.float64)
    by_space = torch.zeros(far + 1, dtype=torch.float64)
    frames = torch.zeros(place.frames, place.frames, dtype=torch.float64)
    for (i, f, r, c), (j, g, s, d) in product(tokens, tokens):
        by_frame[abs(f - g)] += weights[i, j]
        by_space[round(math.hypot(r - s, c - d))] += weights[i, j]
        frames[f, g] += weights[i, j]
    count = len(tokens)
    return {
        "frame_distance_mass": by_frame / count,
        "spatial_distance_mass": by_space / count,
        "frame_mass": frames / (place.rows * place.cols),
    }


def pooled(weights: Tensor, tokens: list[int], bins: list[int]) -> dict[str, Tensor]:
    """tokens: those of the map, in order. bins: the bin of each."""
    count = max(bins) + 1
    members = [[t for t, b in zip(tokens, bins, strict=True) if b == n] for n in range(count)]
    blocks = [[weights[q][:, k].mean() for k in members] for q in members]
    inside = set(tokens)
    outside = [j for j in range(weights.shape[1]) if j not in inside]
    others = [weights[q][:, outside].sum(1).mean() for q in members]
    return {
        "pooled_map": torch.stack([torch.stack(row) for row in blocks]),
        "other_mass": torch.stack(others),
    }
