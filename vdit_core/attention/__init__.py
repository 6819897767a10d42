"""Carry out a plan on one attention call, and measure the map it uses."""

from .api import IMPLEMENTATIONS, attend
from .checks import finite
from .dense import Dense
from .flatten import flattening, key_counts
from .masks import cut, hiding_text, prompt_length
from .measure import measure
from .parts import PARTS, measure_parts, measure_words
from .probes import PROBED, RATES, TEMPERATURES, probe
from .results import (
    ALWAYS_KEPT,
    ALWAYS_KEPT_OF_CROSS,
    KEPT_OF_CROSS,
    MORE_KEPT,
    MapMeasures,
    Measures,
    TextMeasures,
)
from .thin import Thinning

__all__ = [
    "ALWAYS_KEPT",
    "ALWAYS_KEPT_OF_CROSS",
    "IMPLEMENTATIONS",
    "KEPT_OF_CROSS",
    "MORE_KEPT",
    "PARTS",
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
    "measure_parts",
    "measure_words",
    "probe",
    "prompt_length",
]
