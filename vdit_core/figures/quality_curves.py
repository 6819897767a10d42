"""Curves of what two videos are like by themselves, frame by frame."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from .canvas import ACCENT, Page
from .judging import AGREEMENT, Judged

HEIGHT = 290  # pixels of the row, with its words
_TITLE, _PLOT, _BETWEEN = 48, 150, 92
_LEAST = 192  # pixels across, of a plot
_WARM = "#d55e00"
_SPANS = {  # of an axis, at least
    "consistency": 0.02,
    "sharpness": 20.0,
    "colourfulness": 4.0,
    AGREEMENT: 0.02,
}
_TITLES = {"sharpness": "sharpness (levels²)"}


def least_width(judged: Judged) -> int:
    """Pixels that the plots need side by side."""
    return len(_shown(judged)) * (_LEAST + _BETWEEN) - _BETWEEN


def draw_qualities(page: Page, x: float, y: float, width: float, judged: Judged) -> None:
    """A plot for each quality from the top left corner (x, y) on, a in blue and b in orange."""
    page.text(x, y + 10, "by itself:", size=18, bold=True)
    page.text(x + 100, y + 10, "a", size=18, bold=True, colour=ACCENT)
    page.text(x + 122, y + 10, "b", size=18, bold=True, colour=_WARM)
    shown = _shown(judged)
    wide = (width - _BETWEEN * (len(shown) - 1)) / len(shown)
    for n, name in enumerate(shown):
        place = x + n * (wide + _BETWEEN), y + _TITLE + 18, wide, _PLOT
        axes = framed(page, place, _TITLES.get(name, name), len(judged.a.video))
        _draw(axes, judged, name)


def framed(page: Page, place: tuple[float, float, float, float], title: str, frames: int) -> Axes:
    """Axes over the frames; place: x, y, width, height."""
    x, y, width, height = place
    axes = page.axes(x, y, width, height)
    page.text(x, y - 18, title, size=18)
    page.text(x + width / 2, y + height + 46, "frame", size=17, align="center")
    axes.set_xlim(-0.5, frames - 0.5)
    axes.grid(axis="y", color="#d0d7de", linewidth=1)
    axes.locator_params(axis="x", integer=True)
    axes.locator_params(axis="y", nbins=5)
    axes.ticklabel_format(useOffset=False)
    axes.tick_params(labelsize=16)
    return axes


def _shown(judged: Judged) -> list[str]:
    return [name for name in _SPANS if name in judged.a.curves]


def _draw(axes: Axes, judged: Judged, name: str) -> None:
    curves = [look.curves[name].tolist() for look in (judged.a, judged.b)]
    values = [value for curve in curves for value in curve]
    if not values:  # a single frame has no neighbour
        axes.set_yticks([])
        return
    middle = (max(values) + min(values)) / 2
    half = 0.6 * max(_SPANS[name], max(values) - min(values))
    axes.set_ylim(middle - half, middle + half)
    for curve, colour, thick in zip(curves, (ACCENT, _WARM), (5, 2), strict=True):
        style: dict[str, Any] = {"marker": "o", "markersize": thick + 2}  # equal ones both show
        axes.plot(range(len(curve)), curve, color=colour, linewidth=thick, **style)
