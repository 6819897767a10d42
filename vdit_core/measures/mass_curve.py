"""Mass kept at any rate, from the few points of the curve that are measured."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .spectrum import CURVE

_WIDTH = (CURVE[1] - CURVE[0]) * math.log(2)  # of the logarithms of weights between two points


def mass_kept(curve: Tensor, rates: Tensor) -> Tensor:
    """curve: [2, n], rates and mass kept at the weights CURVE of one head. → [len(rates)].

    Between two points it is known how many weights lie there and what they hold together. That
    their number grows or falls exponentially with the logarithm of the weight is our guess, which
    has the right mass for one steepness.
    """
    ends = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    places, kept = torch.cat([ends[:, :1], curve.double().clamp(0, 1), ends[:, 1:]], 1)
    right = torch.searchsorted(places, rates.double()).clamp(1, len(places) - 1)
    left = right - 1
    width, fall = places[right] - places[left], kept[left] - kept[right]
    first = torch.tensor([math.inf, *(2.0**j for j in CURVE), math.inf]).double()  # weight × keys
    steepness = _steepness(fall / width.clamp_min(1e-12) / first[left])
    along = (rates - places[left]) / width.clamp_min(1e-12)
    at = torch.log1p(along * torch.expm1(steepness * _WIDTH)) / steepness
    share = torch.expm1((steepness + 1) * at) / torch.expm1((steepness + 1) * _WIDTH)
    known = first[left].isfinite() & (right < len(places) - 1)
    found = kept[left] - fall * torch.where(known, share, along)
    return found.clamp_min(0).round(decimals=6)  # the curve comes in float32


def _steepness(mean: Tensor) -> Tensor:
    """For which λ the mean of e^u over 0 ≤ u ≤ _WIDTH with density e^λu is this, by bisection."""
    low, high = torch.full_like(mean, -1000.3), torch.full_like(mean, 300.1)
    for _ in range(60):
        middle = (low + high) / 2
        weight = torch.expm1((middle + 1) * _WIDTH) / (middle + 1)
        found = weight * middle / torch.expm1(middle * _WIDTH)
        low, high = torch.where(found < mean, middle, low), torch.where(found < mean, high, middle)
    return (low + high) / 2
