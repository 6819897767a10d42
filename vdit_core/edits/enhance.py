"""Enhance: what our reading of IE-Adapt does to the maps that look widest (2504.12027, Alg. 1)."""

from __future__ import annotations

from . import Change
from .flatten import Flatten
from .guide import Guide
from .perturb import Perturb

MODES = ("mix", "temperature", "guidance")


def enhancement(mode: str, strength: float, region: str) -> Change:
    """The change of a mode. Raises ValueError for a strength that it does not allow."""
    if mode == "mix":
        return Perturb("uniform", strength, region)
    if mode == "temperature":
        return Flatten(strength, region)
    if mode == "guidance":
        return Guide(strength, region)
    raise ValueError(f"mode: got {mode!r}, allowed are {', '.join(MODES)}")
