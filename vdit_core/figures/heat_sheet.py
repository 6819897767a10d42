"""A number per layer and head as a heat map, with each layer's mean and range beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..record import Header
from .canvas import ACCENT, FAINT, INK, PAPER, Page
from .colours import ColourScale, span
from .legend import BAR, draw_bar, explain, moment_text, plain
from .panels import Moment
from .quantities import Quantity, filled

LEFT, TOP, _BOTTOM = 96, 158, 138
_WIDE, HIGH = 760, 780  # pixels of the heat map, at most
_BESIDE, _RANGE, _NUMBER = 40, 220, 84  # gap, plot of the ranges, the means in figures
_NUMBERED = (44, 20)  # pixels of a cell that has room for its number
_LIGHT = 0.55


@dataclass(frozen=True)
class Words:
    """What stands around the cells. name: of the colours, with its unit. beside: of the ranges."""

    title: str
    below: str
    words: str
    name: str
    across: str = "head"
    down: str = "layer"
    beside: str = "mean and range of the heads"


def draw_heat(
    header: Header,
    moment: Moment,
    asked: Quantity,
    name: str,
    layers: Sequence[int],
    heads: Sequence[int],
    values: Tensor,
) -> Tensor:
    """values: [layers, heads], NaN for what was not captured; name: of the colours, with its unit.

    Returns [1, h, w, 3].
    """
    title, words = filled(asked.title, header), filled(asked.words, header)
    around = Words(title, moment_text(header, moment), words, name)
    return draw_table(around, layers, heads, values, span(values))


def draw_table(
    around: Words,
    rows: Sequence[int | str],
    columns: Sequence[int],
    values: Tensor,
    colours: ColourScale,
) -> Tensor:
    """values: [rows, columns], NaN for what is not known. Returns [1, h, w, 3]."""
    cell = (cell_size(_WIDE, len(columns), 110), cell_size(HIGH, len(rows), 64))
    wide, high = cell[0] * len(columns), cell[1] * len(rows)
    beside = LEFT + wide + _BESIDE
    right = max(beside + _RANGE + _NUMBER, 860)
    page = Page(right + BAR, TOP + high + _BOTTOM)
    page.text(LEFT, 38, around.title, size=32, bold=True)
    page.text(LEFT, 80, around.below, size=19, colour=FAINT)
    draw_cells(page, values, colours, cell)
    _label(page, around, rows, columns, cell)
    page.text(beside, TOP - 14, around.beside, size=16, colour=FAINT)
    _draw_ranges(page, beside, values, colours, cell[1])
    draw_bar(page, right, TOP, max(160, min(high, 480)), colours, around.name)
    explain(page, LEFT, TOP + high + 72, around.words)
    return page.render()


def cell_size(room: int, count: int, largest: int) -> int:
    return max(8, min(largest, room // count))


def draw_cells(page: Page, values: Tensor, colours: ColourScale, cell: tuple[int, int]) -> None:
    """A table [rows, columns] as coloured cells, with its numbers where they fit."""
    rgb = colours.colours(values)
    pixels = rgb.repeat_interleave(cell[1], 0).repeat_interleave(cell[0], 1)
    if min(cell) > 12:
        for edge in (pixels[:: cell[1]], pixels[:, :: cell[0]]):
            edge.fill_(1.0)
    axes = page.axes(LEFT, TOP, pixels.shape[1], pixels.shape[0])
    axes.imshow(pixels.numpy(), aspect="auto", interpolation="nearest")
    axes.set_axis_off()
    if cell[0] < _NUMBERED[0] or cell[1] < _NUMBERED[1]:
        return
    light = rgb.mean(-1) > _LIGHT
    for row, col in (~values.isnan()).nonzero().tolist():
        x, y = LEFT + (col + 0.5) * cell[0], TOP + (row + 0.5) * cell[1]
        ink = INK if bool(light[row, col]) else PAPER
        size = 17 if cell[1] > 30 else 13
        page.text(x, y, short(values[row, col].item()), size=size, colour=ink, align="center")


def _label(
    page: Page,
    around: Words,
    rows: Sequence[int | str],
    columns: Sequence[int],
    cell: tuple[int, int],
) -> None:
    """Names of the columns above, of the rows at the left."""
    middle = len(columns) * cell[0] / 2
    page.text(LEFT + middle, TOP - 40, around.across, size=17, align="center")
    every = -(-30 // cell[0])
    for n in range(0, len(columns), every):
        x = LEFT + (n + 0.5) * cell[0]
        page.text(x, TOP - 14, f"{columns[n]}", size=16, align="center", colour=FAINT)
    label_rows(page, rows, cell[1], around.down)


def label_rows(page: Page, rows: Sequence[int | str], cell: int, down: str = "layer") -> None:
    """Names of the rows, at their left."""
    every = -(-18 // cell)
    for n in range(0, len(rows), every):
        y = TOP + (n + 0.5) * cell
        page.text(LEFT - 12, y, f"{rows[n]}", size=16, align="right", colour=FAINT)
    page.text(LEFT - 62, TOP + len(rows) * cell / 2, down, size=17, upright=True)


def _draw_ranges(page: Page, x: int, values: Tensor, colours: ColourScale, cell: int) -> None:
    """For each layer a line from its least to its largest head, and a dot at the mean."""
    axes = page.axes(x, TOP, _RANGE, len(values) * cell)
    room = 0.04 * (colours.high - colours.low)
    axes.set_xlim(colours.low - room, colours.high + room)
    axes.set_ylim(len(values), 0)
    axes.set_yticks([])
    axes.set_xticks(colours.ticks(), [plain(tick) for tick in colours.ticks()], fontsize=15)
    axes.grid(axis="x", color="#d0d7de", linewidth=1)
    axes.set_axisbelow(True)
    for row, whole in enumerate(values):
        known = whole[whole.isfinite()]
        if not len(known):
            continue
        y, mean = row + 0.5, known.mean().item()
        axes.plot([known.min().item(), known.max().item()], [y, y], color=FAINT, linewidth=2)
        axes.plot([mean], [y], "o", color=ACCENT, markersize=min(11, cell * 0.6))
        if cell >= 14:
            at = x + _RANGE + _NUMBER - 22, TOP + y * cell
            page.text(*at, short(mean), size=min(17, cell), align="right")


def short(value: float) -> str:
    """A number for a small place."""
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.005:
        return "<0.01" if value > 0 else "0.00"
    if size >= 1e5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return f"{value:.{2 if size < 10 else 1 if size < 100 else 0}f}".replace("-", "−")
