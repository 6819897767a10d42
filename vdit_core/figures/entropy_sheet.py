"""A quantity by layer and step (or head), each layer's mean and range, and its proportion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from ..entropy import Levels
from ..ranking import Granularity
from .canvas import ACCENT, FAINT, INK, Page
from .colours import ColourScale, choose_scale, span
from .heat_sheet import HIGH, LEFT, TOP, cell_size, draw_cells, label_rows, short
from .legend import BAR, draw_bar, explain, plain
from .quantities import with_unit

WARM = "#d55e00"  # orange of the Okabe–Ito colours
_COLOURS = {"high": WARM, "low": ACCENT, "": FAINT}
_WIDE, _TALLEST, _LEAST = 620, 64, 260  # of the heat map; of a row; of the plots' height
_RANGE, _BARS, _NUMBER, _GAP, _FOOT = 250, 200, 70, 44, 200
_GRID = "#d0d7de"


@dataclass(frozen=True)
class Sides:
    """Heads, by layer, of the highest and of the lowest share; of whole layers all their heads."""

    share: float
    granularity: Granularity
    high: Mapping[int, Sequence[int]]
    low: Mapping[int, Sequence[int]]

    def of(self, layer: int, head: int | None = None) -> str:
        """high, low, or nothing; without a head: of any head of the layer. Beyond half it may be
        both, which is said as such."""
        names = [
            name
            for name, side in (("high", self.high), ("low", self.low))
            if (layer in side if head is None else head in side.get(layer, ()))
        ]
        return " and ".join(names)

    def colour(self, layer: int, head: int | None = None) -> str:
        return _COLOURS.get(self.of(layer, head), INK)


def draw_sheet(levels: Levels, sides: Sides, texts: Sequence[str]) -> Tensor:
    """texts: of the highest and of the lowest share. Returns [1, h, w, 3]."""
    asked, layers = levels.quantity, len(levels.layers)
    of_steps = sides.granularity == "layers"
    values = levels.values.nanmean(1) if of_steps else levels.by_head
    columns = levels.steps if of_steps else levels.heads
    cell = cell_size(_WIDE, len(columns), 110), cell_size(HIGH, layers, _TALLEST)
    wide, high = cell[0] * len(columns), cell[1] * layers
    ranges = LEFT + max(wide, 200) + _GAP
    bars = ranges + _RANGE + _NUMBER + _GAP
    right = bars + _BARS + _NUMBER + 16
    page = Page(right + BAR, TOP + max(high, _LEAST) + _FOOT)
    page.text(LEFT, 38, f"{asked.title} by layer", size=32, bold=True)
    page.text(LEFT, 80, f"mean of {levels.calls} · {levels.header.model}", size=19, colour=FAINT)
    colours = choose_scale([values.nan_to_num(0)], "log") if asked.log else span(values)
    draw_cells(page, values, colours, cell)
    _label(
        page, columns, cell[0], "step, mean of the heads" if of_steps else "head, mean of the steps"
    )
    label_rows(page, levels.layers, cell[1])
    if not of_steps:
        _outline(page, levels, sides, (wide, high))
    _draw_ranges(page, ranges, levels, sides, cell[1])
    _draw_proportions(page, bars, levels, sides, cell[1])
    draw_bar(
        page, right, TOP, max(180, min(high, 480)), colours, with_unit(levels.name, asked.unit)
    )
    _draw_foot(page, TOP + max(high, _LEAST) + 56, asked.words, sides, texts)
    return page.render()


def _label(page: Page, columns: Sequence[int], cell: int, words: str) -> None:
    page.text(LEFT, TOP - 40, words, size=16)
    every = -(-30 // cell)
    for n in range(0, len(columns), every):
        x = LEFT + (n + 0.5) * cell
        page.text(x, TOP - 14, f"{columns[n]}", size=16, align="center", colour=FAINT)


def _outline(page: Page, levels: Levels, sides: Sides, size: tuple[int, int]) -> None:
    """A frame around each head of the two shares, on the heat map."""
    axes = page.axes(LEFT, TOP, *size)
    axes.patch.set_visible(False)
    axes.set_axis_off()
    axes.set_xlim(0, len(levels.heads))
    axes.set_ylim(len(levels.layers), 0)
    line = min(3.5, size[1] / len(levels.layers) / 9)
    for row, layer in enumerate(levels.layers):
        for column, head in enumerate(levels.heads):
            if not sides.of(layer, head):
                continue
            for colour, wide in (("white", line + 2), (sides.colour(layer, head), line)):
                box = Rectangle((column + 0.06, row + 0.08), 0.88, 0.84, fill=False)
                box.set(edgecolor=colour, linewidth=wide)
                axes.add_patch(box)


def _draw_ranges(page: Page, x: int, levels: Levels, sides: Sides, cell: int) -> None:
    """Each layer's heads as a line, its mean (or each head) as a dot in the share's colour."""
    axes = page.axes(x, TOP, _RANGE, len(levels.layers) * cell)
    known = levels.by_head[levels.by_head.isfinite()]
    scale = choose_scale([known], "log") if levels.quantity.log else span(known)
    _calm(axes, scale, len(levels.layers))
    heads = sides.granularity == "heads"
    title = "each head" if heads else "mean and range of the heads"
    page.text(x, TOP - 14, title, size=16, colour=FAINT)
    for row, layer in enumerate(levels.layers):
        values, y = levels.by_head[row], row + 0.5
        there = values[values.isfinite()].clamp_min(scale.low)
        if not len(there):
            continue
        axes.plot([float(there.min()), float(there.max())], [y, y], color=_GRID, linewidth=4)
        mean = max(float(levels.by_layer[row]), scale.low)
        dots = {sides.colour(layer): [mean]}
        if heads:
            dots = {}
            for head, value in zip(levels.heads, values.tolist(), strict=True):
                if value == value:
                    dots.setdefault(sides.colour(layer, head), []).append(max(value, scale.low))
        for colour, places in dots.items():
            axes.plot(places, [y] * len(places), "o", color=colour, markersize=min(11, cell * 0.6))
        _number(page, x + _RANGE + _NUMBER - 8, row, cell, float(levels.by_layer[row]))


def _draw_proportions(page: Page, x: int, levels: Levels, sides: Sides, cell: int) -> None:
    """Each layer's share of the sum over the layers; dashed: an even share."""
    parts = levels.proportions.nan_to_num(0).tolist()
    even = 100 / len(parts)
    axes = page.axes(x, TOP, _BARS, len(parts) * cell)
    _calm(axes, ColourScale(0, 1.08 * max(*parts, even), False, False), len(parts))
    axes.set_xlim(left=0)
    whole = sides.granularity == "layers"
    shades = [sides.colour(layer) if whole else FAINT for layer in levels.layers]
    axes.barh([n + 0.5 for n in range(len(parts))], parts, height=0.7, color=shades)
    axes.axvline(even, color=INK, linewidth=1.5, linestyle="--")
    page.text(x, TOP - 14, "share of all layers (%)", size=16, colour=FAINT)
    for row, part in enumerate(parts):
        _number(page, x + _BARS + _NUMBER - 8, row, cell, part)


def _calm(axes: Axes, scale: ColourScale, rows: int) -> None:
    axes.set_xscale("log" if scale.log else "linear")
    room = 0.04 * (scale.high - scale.low)
    edges = (
        (scale.low / 1.1, scale.high * 1.1) if scale.log else (scale.low - room, scale.high + room)
    )
    axes.set_xlim(*edges)
    axes.set_ylim(rows, 0)
    axes.set_yticks([])
    ticks = scale.ticks()[:: -(-len(scale.ticks()) // 5)]
    axes.set_xticks(ticks, [plain(tick) for tick in ticks], fontsize=15)
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", color=_GRID, linewidth=1)
    axes.set_axisbelow(True)


def _number(page: Page, x: int, row: int, cell: int, value: float) -> None:
    if cell >= 14 and value == value:
        y = TOP + (row + 0.5) * cell
        page.text(x, y, short(value), size=min(17, cell), align="right")


def _draw_foot(page: Page, y: int, words: str, sides: Sides, texts: Sequence[str]) -> None:
    most = int((page.width - 2 * LEFT) / 11)  # letters of this size
    for side, colour, text in zip(("highest", "lowest"), (WARM, ACCENT), texts, strict=True):
        line = f"{side} {100 * sides.share:g} % of the {sides.granularity}: {text}"
        line = line if len(line) <= most else f"{line[: most - 1]}…"
        page.text(LEFT, y, line, size=19, bold=True, colour=colour)
        y += 30
    explain(page, LEFT, y + 12, f"{words} Dashed: an even share.")
