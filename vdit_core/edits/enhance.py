"""Enhance: what our reading of IE-Adapt does to the maps that look widest (2504.12027, Alg. 1)."""

from __future__ import annotations

from . import Change
from .perturb import Perturb

MODES = ("mix",)


def enhancement(mode: str, strength: float, region: str) -> Change:
    """The change of a mode. Raises ValueError for a strength that it does not allow."""
    if mode == "mix":
        return Perturb("uniform", strength, region)
    raise ValueError(f"mode: got {mode!r}, allowed are {', '.join(MODES)}")
