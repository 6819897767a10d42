"""The picture of attention: pooled maps with their frames (2504.10317, Fig. 1)."""

from __future__ import annotations

from torch import Tensor

from ..record import Header, RecordData
from ..selection import Selection
from .canvas import FAINT, Page
from .colours import ColourScale, choose_scale, paint
from .frames import FrameAxis, profile
from .legend import (
    BAR,
    draw_bar,
    has_others,
    heads_text,
    moment_text,
    others_text,
    size_text,
)
from .map_sheet import draw_sheet
from .panels import Moment, Panel, choose_panels

_SIDE = 720  # pixels of the map, about
_LEFT, _TOP, _BOTTOM, _STRIP = 96, 112, 150, 104


def attention_map(
    data: RecordData,
    *,
    layers: Selection,
    head: str,
    step: Selection,
    branch: str,
    scale: str,
    item: int = 0,
) -> Tensor:
    """Draw the maps of a record, [1, H, W, 3] float 0..1.

    head: "mean" of the captured heads, or a selection of heads. step: one captured step, or mid
    for the captured step nearest to the middle. branch: both takes cond where it was captured.
    scale: "log" or "linear". One layer and head fill the page; several share a sheet and a scale.
    A value is the mean weight times the number of keys: 1 where attention looks everywhere alike.
    """
    moment, rows = choose_panels(data, layers, head, step, branch, item)
    panels = [panel for row in rows for panel in row]
    colours = choose_scale([panel.weights for panel in panels], scale)
    if len(panels) == 1:
        return _draw_one(moment.header, moment, panels[0], colours)
    return draw_sheet(moment.header, moment, rows, colours)


def _draw_one(header: Header, moment: Moment, panel: Panel, colours: ColourScale) -> Tensor:
    axis = FrameAxis.of(header, moment.excerpt, _SIDE)
    mixed = has_others(header)
    right = _LEFT + axis.side + (_STRIP if mixed else 0)
    page = Page(right + 28 + BAR, _TOP + axis.side + _BOTTOM)
    page.text(_LEFT, 38, f"Layer {panel.layer}, {heads_text(panel)}", size=32, bold=True)
    page.text(_LEFT, 80, moment_text(header, moment), size=19, colour=FAINT)
    page.picture(_LEFT, _TOP, paint(axis.fit(panel.weights), colours, axis.side, axis.lines()))
    _label_frames(page, axis)
    if mixed:
        _draw_other(page, _LEFT + axis.side, axis, panel.other, others_text(header))
    draw_bar(page, right + 28, _TOP, min(axis.side, 480), colours)
    y = _TOP + axis.side + 86
    share = f"{100 * panel.share:.0f} %"
    words = f"row entropy {panel.entropy:.2f} nats = {share} of log({len(header.grid):,} keys)"
    page.text(_LEFT, y, words + (", over all frames" if header.window else ""), size=19)
    words = f"{size_text(header)}, in {axis.bins} × {axis.bins} blocks"
    page.text(_LEFT, y + 30, words, size=17, colour=FAINT)
    return page.render()


def _label_frames(page: Page, axis: FrameAxis) -> None:
    axes = page.axes(_LEFT, _TOP, axis.side, axis.side)
    axes.set_xlim(0, axis.side)
    axes.set_ylim(axis.side, 0)
    places, names = axis.labels(room=36)
    axes.set_xticks(places, names, fontsize=17)
    axes.set_yticks(places, names, fontsize=17)
    axes.tick_params(length=0)
    middle = axis.side / 2
    page.text(
        _LEFT + middle, _TOP + axis.side + 44, "key: frame looked at", size=19, align="center"
    )
    page.text(_LEFT - 62, _TOP + middle, "query: frame that looks", size=19, upright=True)


def _draw_other(page: Page, x: int, axis: FrameAxis, other: Tensor, words: str) -> None:
    """Beside each row of the map, how much of its attention goes to tokens outside the map."""
    width = _STRIP - 28
    page.picture(x + 14, _TOP, profile(axis.fit_profile(other), width, axis.side))
    page.text(x + 14, _TOP + axis.side + 20, "0", size=15, align="center", colour=FAINT)
    page.text(x + 14 + width, _TOP + axis.side + 20, "100 %", size=15, align="center", colour=FAINT)
    page.text(x + 14 + width / 2, _TOP + axis.side + 44, words, size=17, align="center")
