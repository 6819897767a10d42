"""One measured number against another, with their spread: a plot for the gallery."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from ..vdit_core.figures.canvas import ACCENT, FAINT, Page, text_width

_LEFT, _TOP, _WIDE, _HIGH = 96, 40, 620, 440
_WARM = "#d55e00"
_BARS = "lines: standard deviation over the seeds"


@dataclass(frozen=True)
class Point:
    """Mean and spread along both axes."""

    name: str
    across: tuple[float, float]
    up: tuple[float, float]


def points_of(checks: Sequence[dict[str, Any]], across: str, up: str) -> list[Point]:
    """The rows of a table whose two columns have numbers, in its order."""
    cells = {tuple(check["name"].rsplit(": ", 1)): check for check in checks}
    rows = dict.fromkeys(key[0] for key in cells)
    found: list[Point] = []
    for row in rows:
        pair = [cells.get((row, column)) for column in (across, up)]
        if all(cell is not None and cell["value"] is not None for cell in pair):
            x, y = ((cell["value"], cell["spread"] or 0.0) for cell in pair if cell)
            found.append(Point(row, x, y))
    return found


def draw_scatter(points: Sequence[Point], across: str, up: str) -> Tensor:
    """A number for each point, explained beside the plot; the first in orange. [1, h, w, 3]"""
    beside = _LEFT + _WIDE + 44
    legend = max(text_width(words, 17) for words in [_BARS, *(point.name for point in points)])
    below = _TOP + max(_HIGH - 10, 34 * len(points) + 24)  # the words under the names
    page = Page(beside + round(legend) + 56, max(_TOP + _HIGH + 90, below + 40))
    axes = page.axes(_LEFT, _TOP, _WIDE, _HIGH)
    axes.grid(color="#d0d7de", linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=16)
    for n, point in enumerate(points):
        (x, wide), (y, high), colour = point.across, point.up, _WARM if n == 0 else ACCENT
        axes.errorbar([x], [y], [high], [wide], color=colour, linewidth=1, alpha=0.35)
        style: dict[str, Any] = {"color": colour, "markersize": 24, "markeredgecolor": "white"}
        axes.plot([x], [y], "o", zorder=3 + n, **style)
        inside: dict[str, Any] = {"color": "white", "fontsize": 15, "weight": "bold"}
        axes.annotate(str(n), (x, y), ha="center", va="center_baseline", zorder=3 + n, **inside)
        line = _TOP + 14 + 34 * n
        page.text(beside, line, str(n), size=17, bold=True, colour=colour)
        page.text(beside + 32, line, point.name, size=17)
    page.text(_LEFT + _WIDE / 2, _TOP + _HIGH + 50, across, size=18, align="center")
    page.text(_LEFT - 72, _TOP + _HIGH / 2, up, size=18, upright=True)
    page.text(beside, below, _BARS, size=16, colour=FAINT)
    return page.render()


def plot_of(checks: Sequence[dict[str, Any]], across: str, up: str) -> str:
    """The plot as an <img> that needs no file; nothing where a column lacks."""
    points = points_of(checks, across, up)
    if len(points) < 2:
        return ""
    content = io.BytesIO()
    to_pil_image(draw_scatter(points, across, up)[0].movedim(-1, 0)).save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode("ascii")
    return f'<img class="plot" alt="{across} against {up}" src="data:image/png;base64,{data}">'
