"""Many maps on one sheet, with one colour scale."""

from __future__ import annotations

import math

from torch import Tensor

from ..record import Header
from .canvas import FAINT, Page
from .colours import ColourScale, paint
from .frames import FrameAxis, profile
from .legend import BAR, draw_bar, has_others, heads_text, moment_text, size_text
from .panels import Moment, Panel

_MARGIN, _TOP, _LABEL, _GAP, _STRIP = 32, 112, 28, 18, 22
_WIDE, _HIGH, _LARGEST, _SMALLEST = 1240, 1600, 460, 128  # pixels of all panels; of one


def draw_sheet(
    header: Header, moment: Moment, rows: list[list[Panel]], colours: ColourScale
) -> Tensor:
    """Layers below each other, heads side by side; where there is one of either, wrapped."""
    panels = [panel for row in rows for panel in row]
    columns = _columns(rows)
    lines = -(-len(panels) // columns)
    room = max(_SMALLEST, min(_LARGEST, _WIDE // columns - _GAP, _HIGH // lines - _GAP - _LABEL))
    axis = FrameAxis.of(header, moment.excerpt, room)
    mixed = has_others(header)
    wide = axis.side + (_STRIP if mixed else 0) + _GAP
    high = _LABEL + axis.side + _GAP
    right, bottom = _MARGIN + columns * wide, _TOP + max(lines * high, 360)
    page = Page(max(right + BAR, 920), bottom + 78)
    page.text(_MARGIN, 38, _title(rows), size=30, bold=True)
    page.text(_MARGIN, 78, moment_text(header, moment), size=19, colour=FAINT)
    for n, panel in enumerate(panels):
        x, y = _MARGIN + n % columns * wide, _TOP + n // columns * high
        _draw_panel(page, x, y, panel, axis, colours, mixed)
    draw_bar(page, right + 4, _TOP + _LABEL, min(bottom - _TOP - _LABEL - _GAP, 480), colours)
    _explain(page, bottom + 14, header, bool(axis.lines()))
    return page.render()


def _draw_panel(
    page: Page, x: int, y: int, panel: Panel, axis: FrameAxis, colours: ColourScale, mixed: bool
) -> None:
    mean = panel.head == "mean"
    name = f"layer {panel.layer}" if mean else f"L{panel.layer} H{panel.head}"
    page.text(x, y + _LABEL / 2, name, size=17, bold=True)
    share = f"{100 * panel.share:.0f} %"
    page.text(x + axis.side, y + _LABEL / 2, share, size=17, align="right")
    page.picture(x, y + _LABEL, paint(axis.fit(panel.weights), colours, axis.side, axis.lines()))
    if mixed:
        strip = profile(axis.fit_profile(panel.other), _STRIP - 4, axis.side)
        page.picture(x + axis.side + 2, y + _LABEL, strip)


def _columns(rows: list[list[Panel]]) -> int:
    """Heads stand side by side; a single layer or a single head is wrapped to a wide rectangle."""
    heads, count = max(map(len, rows)), sum(map(len, rows))
    if len(rows) > 1 and heads > 1:
        return heads
    wide = math.ceil(math.sqrt(count * 1.3))
    return math.ceil(count / math.ceil(count / wide))


def _title(rows: list[list[Panel]]) -> str:
    first, heads = rows[0][0], max(map(len, rows))
    layers = f"Layer {first.layer}" if len(rows) == 1 else f"{len(rows)} layers (L)"
    if first.head == "mean":
        return f"{len(rows)} layers, {heads_text(first)}"
    return f"{layers}, head {first.head}" if heads == 1 else f"{layers}, {heads} heads (H)"


def _explain(page: Page, y: int, header: Header, lined: bool) -> None:
    others = "tokens that are not video" if header.window is None else "all that is not shown"
    strip = f" Blue: its attention on {others}." if has_others(header) else ""
    lines = ", lines between frames" if lined else ""
    first = f"Row: the place that looks. Column: where it looks. {size_text(header)}{lines}."
    page.text(_MARGIN, y, first, size=17)
    second = f"Percent: row entropy as a share of log({len(header.grid):,} keys).{strip}"
    page.text(_MARGIN, y + 28, second, size=17)
