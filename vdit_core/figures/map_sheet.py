"""Many maps on one sheet, with one colour scale."""

from __future__ import annotations

import math

from torch import Tensor

from ..record import Header
from .canvas import FAINT, Page
from .colours import ColourScale, paint
from .frames import FrameAxis, profile
from .legend import BAR, draw_bar, heads_text, moment_text
from .panels import Moment, Panel

_MARGIN, _TOP, _LABEL, _GAP, _STRIP = 32, 112, 28, 18, 22
_SIZES = ((2, 460), (6, 340), (12, 260), (42, 190), (10**9, 128))  # up to so many: pixels


def draw_sheet(
    header: Header, moment: Moment, rows: list[list[Panel]], colours: ColourScale
) -> Tensor:
    """Layers below each other and heads beside each other; where there is one of either, wrapped."""
    panels = [panel for row in rows for panel in row]
    room = next(size for most, size in _SIZES if len(panels) <= most)
    axis = FrameAxis(header.grid, header.map_size, room)
    mixed = any(bool(panel.other.any()) for panel in panels)
    columns = _columns(rows)
    wide = axis.side + (_STRIP if mixed else 0) + _GAP
    high = _LABEL + axis.side + _GAP
    right = max(_MARGIN + columns * wide, 800)
    bottom = _TOP + max(-(-len(panels) // columns) * high, 360)
    page = Page(right + BAR, bottom + 78)
    page.text(_MARGIN, 38, _title(rows), size=30, bold=True)
    page.text(_MARGIN, 78, moment_text(header, moment), size=19, colour=FAINT)
    for n, panel in enumerate(panels):
        x, y = _MARGIN + n % columns * wide, _TOP + n // columns * high
        _draw_panel(page, x, y, panel, axis, colours, mixed)
    draw_bar(page, right, _TOP + _LABEL, min(bottom - _TOP - _LABEL - _GAP, 480), colours)
    _explain(page, bottom + 14, header, mixed)
    return page.render()


def _draw_panel(
    page: Page, x: int, y: int, panel: Panel, axis: FrameAxis, colours: ColourScale, mixed: bool
) -> None:
    small = axis.side < 160
    size = 14 if small else 17
    name = f"{panel.layer} : {panel.head}" if small else f"layer {panel.layer}"
    if not small and panel.head != "mean":
        name += f" head {panel.head}"
    page.text(x, y + _LABEL / 2, name, size=size, bold=True)
    page.text(x + axis.side, y + _LABEL / 2, f"{panel.share:.0%}", size=size, align="right")
    page.picture(x, y + _LABEL, paint(axis.fit(panel.weights), colours, axis.side, axis.lines()))
    if mixed:
        strip = profile(axis.fit_profile(panel.other), _STRIP - 4, axis.side)
        page.picture(x + axis.side + 2, y + _LABEL, strip)


def _columns(rows: list[list[Panel]]) -> int:
    """Heads stand side by side; a single layer or a single head is wrapped to a wide rectangle."""
    if len(rows) > 1 and max(map(len, rows)) > 1:
        return max(map(len, rows))
    count = sum(map(len, rows))
    wide = math.ceil(math.sqrt(count * 1.3))
    return math.ceil(count / math.ceil(count / wide))


def _title(rows: list[list[Panel]]) -> str:
    heads = rows[0][0]
    layers = f"layer {heads.layer}" if len(rows) == 1 else f"{len(rows)} layers"
    if heads.head == "mean":
        return f"Attention, {layers}, {heads_text(heads)}"
    return f"Attention, {layers}, {max(map(len, rows))} heads"


def _explain(page: Page, y: int, header: Header, mixed: bool) -> None:
    g = header.grid
    strip = " Blue: share of its attention on text." if mixed else ""
    page.text(
        _MARGIN,
        y,
        f"Row: the place that looks. Column: where it looks. {g.frames} frames of {g.rows} × {g.cols} "
        "tokens.",
        size=17,
    )
    page.text(
        _MARGIN,
        y + 28,
        f"Percent: row entropy as a share of log({len(g):,} keys).{strip}",
        size=17,
    )
