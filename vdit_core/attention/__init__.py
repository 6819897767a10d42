"""Carry out a plan on one attention call, and measure the map it uses."""

from .api import IMPLEMENTATIONS, attend
from .checks import finite
from .dense import Dense
from .flatten import flattening, key_counts
from .masks import cut, hiding_text, prompt_length
from .measure import measure
from .probes import PROBED, RATES, TEMPERATURES, probe
from .results import ALWAYS_KEPT, KEPT_OF_CROSS, MORE_KEPT, MapMeasures, Measures, TextMeasures
from .thin import Thinning

__all__ = [
    "ALWAYS_KEPT",
    "IMPLEMENTATIONS",
    "KEPT_OF_CROSS",
    "MORE_KEPT",
    "PROBED",
    "RATES",
    "TEMPERATURES",
    "Dense",
    "MapMeasures",
    "Measures",
    "TextMeasures",
    "Thinning",
    "attend",
    "cut",
    "finite",
    "flattening",
    "hiding_text",
    "key_counts",
    "measure",
    "probe",
    "prompt_length",
]
