"""The sheet of a comparison of maps: every layer with every layer, and each with its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .canvas import ACCENT, FAINT, INK, PAPER, Page, text_width
from .colours import ColourScale
from .heat_sheet import short
from .legend import BAR, draw_bar, explain, moment_text
from .panels import Moment

_LEFT, _TOP, _BOTTOM = 96, 190, 176
_WIDE, _LARGEST, _SMALLEST = 620, 84, 9  # pixels of the matrix; of a cell
_BESIDE, _RANGE, _NUMBER = 44, 260, 24
_NUMBERED, _LIGHT = 42, 0.55
_WORDS = (
    "Correlation of the logarithms of the pooled weights: 1 for equal maps, 0 for unrelated ones. "
    "Framed: the same layer in both records. Right: the same layer (blue) against the mean of all "
    "other layers (ring), the control: what any two layers have in common. Grey: a flat map."
)


def draw_sheet(
    moment: Moment,
    values: Tensor,
    layers: Sequence[int],
    others: Sequence[int],
    partner: Sequence[int],
    summary: str,
    head: str,
) -> Tensor:
    """values: [layers, others]. partner: of each layer, its place among the others.

    Returns [1, h, w, 3].
    """
    cell = max(_SMALLEST, min(_LARGEST, _WIDE // max(len(others), len(layers))))
    wide, high = cell * len(others), cell * len(layers)
    finite = values[values.isfinite()]
    low = min(0.0, float(finite.min())) if len(finite) else 0.0
    colours = ColourScale(low, 1.0, log=False, clipped=False)
    beside = _LEFT + wide + _BESIDE
    right = max(beside + _RANGE + _NUMBER, _LEFT + round(text_width(summary, 19)), 820)
    page = Page(right + BAR, _TOP + max(high, 240) + _BOTTOM)
    what = "mean of the heads" if head.strip() == "mean" else f"heads {head}, one by one"
    page.text(_LEFT, 38, f"Likeness of maps, {what}", size=32, bold=True)
    page.text(_LEFT, 80, moment_text(moment.header, moment), size=19, colour=FAINT)
    page.text(_LEFT, 112, summary, size=19)
    _draw_cells(page, values, colours, cell, partner)
    _label(page, layers, others, cell)
    _draw_controls(page, beside, values, partner, colours, cell)
    draw_bar(page, right, _TOP, min(max(high, 240), 420), colours, "correlation")
    explain(page, _LEFT, _TOP + max(high, 240) + 66, _WORDS)
    return page.render()


def _draw_cells(
    page: Page, values: Tensor, colours: ColourScale, cell: int, partner: Sequence[int]
) -> None:
    rgb = colours.colours(values)
    pixels = rgb.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    axes = page.axes(_LEFT, _TOP, pixels.shape[1], pixels.shape[0])
    axes.imshow(
        pixels.numpy(),
        aspect="auto",
        interpolation="nearest",
        extent=(0, values.shape[1], values.shape[0], 0),
    )
    axes.set_axis_off()
    light = rgb.mean(-1) > _LIGHT
    for row, col in enumerate(partner):
        ink = INK if bool(light[row, col]) else PAPER
        corners = [col, col + 1, col + 1, col, col], [row, row, row + 1, row + 1, row]
        axes.plot(*corners, color=ink, linewidth=3 if cell > 20 else 1.5)
    axes.set_xlim(0, values.shape[1])
    axes.set_ylim(values.shape[0], 0)
    if cell < _NUMBERED:
        return
    for row, col in values.isfinite().nonzero().tolist():
        x, y = _LEFT + (col + 0.5) * cell, _TOP + (row + 0.5) * cell
        ink = INK if bool(light[row, col]) else PAPER
        page.text(x, y, short(float(values[row, col])), size=16, colour=ink, align="center")


def _label(page: Page, layers: Sequence[int], others: Sequence[int], cell: int) -> None:
    middle = len(others) * cell / 2
    page.text(_LEFT + middle, _TOP - 40, "layer of the other record", size=17, align="center")
    every = -(-30 // cell)
    for n in range(0, len(others), every):
        x = _LEFT + (n + 0.5) * cell
        page.text(x, _TOP - 14, f"{others[n]}", size=16, align="center", colour=FAINT)
    for n in range(0, len(layers), -(-18 // cell)):
        y = _TOP + (n + 0.5) * cell
        page.text(_LEFT - 12, y, f"{layers[n]}", size=16, align="right", colour=FAINT)
    page.text(_LEFT - 62, _TOP + len(layers) * cell / 2, "layer", size=17, upright=True)


def _draw_controls(
    page: Page,
    x: int,
    values: Tensor,
    partner: Sequence[int],
    colours: ColourScale,
    cell: int,
) -> None:
    """For each layer a dot for its partner, a ring for the mean of the others."""
    axes = page.axes(x, _TOP, _RANGE, len(values) * cell)
    axes.set_xlim(colours.low - 0.04, 1.04)
    axes.set_ylim(len(values), 0)
    axes.set_yticks([])
    axes.tick_params(labelsize=15)
    axes.grid(axis="x", color="#d0d7de", linewidth=1)
    axes.set_axisbelow(True)
    page.text(x, _TOP - 14, "same layer, others", size=16, colour=FAINT)
    size = min(12.0, cell * 0.6)
    for row, (line, own) in enumerate(zip(values, partner, strict=True)):
        rest = line.clone()
        rest[own] = float("nan")
        y, mean = row + 0.5, float(rest.nanmean())
        axes.plot([mean, float(line[own])], [y, y], color="#d0d7de", linewidth=2)
        axes.plot([mean], [y], "o", color=FAINT, markersize=size, markerfacecolor=PAPER)
        axes.plot([float(line[own])], [y], "o", color=ACCENT, markersize=size)
