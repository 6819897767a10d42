"""From weights to colours: one scale for a whole figure, and maps painted to the pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from matplotlib import colormaps
from torch import Tensor

SCALES = ("log", "linear")
COLOURS = "magma"  # evenly stepped in lightness, so also read by colour-blind readers and in grey
DECADES = 4  # a log scale never reaches further down than this from the largest value


@dataclass(frozen=True)
class ColourScale:
    """Values low to high, in equal steps or in equal ratios, from black over red to pale yellow.

    clipped: some values lie below `low` and have its colour.
    """

    low: float
    high: float
    log: bool
    clipped: bool

    def colours(self, values: Tensor) -> Tensor:
        """[...] → RGB [..., 3]; what is not a number becomes grey."""
        low, high = self.low, self.high
        held = values.double().clamp(low, high)
        if self.log:
            held, low, high = held.log(), math.log(low), math.log(high)
        index = ((held - low) / (high - low) * 255).round()
        rgb = _table()[index.nan_to_num(0).long()]
        return torch.where(index.isnan()[..., None], torch.tensor(0.5), rgb)

    def ramp(self, width: int, height: int) -> Tensor:
        """A colour bar, high values at the top, [height, width, 3]."""
        along = torch.linspace(1, 0, height, dtype=torch.float64)
        values = self.low + along * (self.high - self.low)
        if self.log:
            values = self.low * (self.high / self.low) ** along
        return self.colours(values)[:, None].expand(height, width, 3)

    def ticks(self) -> list[float]:
        """Round values for the colour bar, ascending."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            powers = [10.0**n for n in range(first, last + 1)]
            steps = (1, 2, 5) if self.high / self.low < 100 else (1,)
            return [s * p for p in powers for s in steps if self.low <= s * p <= self.high]
        unit = 10.0 ** math.floor(math.log10(self.high - self.low))
        step = next(unit * s for s in (0.2, 0.5, 1, 2) if (self.high - self.low) / (unit * s) <= 6)
        first, last = math.ceil(self.low / step - 1e-6), math.floor(self.high / step + 1e-6)
        return [n * step for n in range(first, last + 1)]


def choose_scale(maps: list[Tensor], scale: str) -> ColourScale:
    """A scale that fits all the maps. Raises ValueError for a scale that does not exist."""
    if scale not in SCALES:
        raise ValueError(f"scale: got {scale!r}, allowed are {' and '.join(SCALES)}")
    values = torch.cat([m.flatten() for m in maps])
    positive = values[values > 0]
    high = float(positive.max()) if len(positive) else 1.0
    if scale == "linear":
        return ColourScale(0.0, high, log=False, clipped=False)
    low = float(positive.kthvalue(len(positive) // 100 + 1).values) if len(positive) else high
    low = max(low, high / 10**DECADES)
    if high / low < 4:  # nearly even: do not blow small differences up to full contrast
        low, high = (middle := math.sqrt(low * high)) / 2, middle * 2
    return ColourScale(low, high, log=True, clipped=bool((values < low).any()))


def span(values: Tensor) -> ColourScale:
    """A linear scale over the finite values; values nearly alike do not get full contrast."""
    finite = values[values.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    least = max(abs(low), abs(high)) / 10 or 1.0
    wider = max(0.0, least - (high - low)) / 2
    return ColourScale(low - wider, high + wider, log=False, clipped=False)


def paint(weights: Tensor, scale: ColourScale, side: int, edges: list[int]) -> Tensor:
    """A map [m, m] as [side, side, 3], side a multiple of m, with lines before the bins `edges`."""
    cell = side // weights.shape[0]
    rgb = scale.colours(weights).repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    strength = min(0.5, side / (len(edges) + 1) / 60)  # the closer, the fainter
    for edge in edges:
        for line in (rgb[edge * cell], rgb[:, edge * cell]):
            line.copy_(_veiled(line, strength))
    return rgb


def _veiled(rgb: Tensor, strength: float) -> Tensor:
    """Nearer to white where it is dark, nearer to black where it is light."""
    light = rgb.mean(-1, keepdim=True) > 0.6
    return rgb.lerp(torch.where(light, 0.0, 1.0).expand_as(rgb), strength)


@cache
def _table() -> Tensor:
    return torch.tensor([colormaps[COLOURS](i)[:3] for i in range(256)], dtype=torch.float32)
