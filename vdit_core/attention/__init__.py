"""Carry out a plan on one attention call, and measure the map it uses."""

from .api import IMPLEMENTATIONS, attend
from .checks import finite
from .dense import Dense
from .masks import cut, hiding_text
from .measure import measure
from .probes import PROBED, RATES, TEMPERATURES, probe
from .results import ALWAYS_KEPT, MORE_KEPT, MapMeasures, Measures
from .thin import Thinning

__all__ = [
    "ALWAYS_KEPT",
    "IMPLEMENTATIONS",
    "MORE_KEPT",
    "PROBED",
    "RATES",
    "TEMPERATURES",
    "Dense",
    "MapMeasures",
    "Measures",
    "Thinning",
    "attend",
    "cut",
    "finite",
    "hiding_text",
    "measure",
    "probe",
]
