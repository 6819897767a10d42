"""Carry out a plan on one attention call, and measure the map it uses."""

from .api import IMPLEMENTATIONS, Dense, attend
from .measure import MapMeasures, measure

__all__ = ["IMPLEMENTATIONS", "Dense", "MapMeasures", "attend", "measure"]
