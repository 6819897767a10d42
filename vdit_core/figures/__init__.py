"""Figures: numbers to pictures, [1, H, W, 3] float 0..1, the same bits for the same numbers."""

from .attention_map import attention_map
from .compare import Comparison, compare_videos
from .quantities import STATISTICS
from .sensitivity import SensitivityFigure, draw_sensitivity
from .statistics import Statistics, draw_statistic
from .sweep import Row, sweep_grid

__all__ = [
    "STATISTICS",
    "Comparison",
    "Row",
    "SensitivityFigure",
    "Statistics",
    "attention_map",
    "compare_videos",
    "draw_sensitivity",
    "draw_statistic",
    "sweep_grid",
]
