"""Carry out a plan on one attention call, and measure the map it uses."""

from .api import IMPLEMENTATIONS, attend
from .folded import Dense
from .measure import measure
from .results import MORE_KEPT, MapMeasures, Measures
from .thin import Thinning

__all__ = [
    "IMPLEMENTATIONS",
    "MORE_KEPT",
    "Dense",
    "MapMeasures",
    "Measures",
    "Thinning",
    "attend",
    "measure",
]
