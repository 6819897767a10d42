"""The errors of layers by rate, the schedule they lead to and, beside a sweep, how both agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from torch import Tensor

from ..attention import RATES
from ..sensitivity import Sensitivity
from .canvas import ACCENT, FAINT, INK, Page
from .colours import ColourScale
from .heat_sheet import HIGH, LEFT, TOP, cell_size, draw_cells, label_rows
from .legend import BAR, draw_bar, explain

_CELL, _TALLEST, _GAP = 84, 64, 56
_BARS, _NUMBER, _PLOT, _LEAST = 230, 56, 330, 300  # widths; the plot's least height
_FOOT = 190
_NAMED = 12  # layers up to which each dot of the plot has its number beside it


@dataclass(frozen=True)
class Sweep:
    """Measured changes beside the probe's errors, each [n], of these layers. rho: of the ranks."""

    layers: Sequence[int]
    changes: Sequence[float]
    errors: Sequence[float]
    rho: float


def draw_sheet(
    found: Sensitivity, rates: Sequence[float], rate: float, schedule: str, sweep: Sweep | None
) -> Tensor:
    """rates: of each layer in the schedule. rate: at which the layers are ranked. [1, h, w, 3]"""
    cell = _CELL, cell_size(HIGH, len(found.layers), _TALLEST)
    wide, high = _CELL * len(RATES), cell[1] * len(found.layers)
    bars, tall = LEFT + wide + _GAP, max(high, _LEAST)
    plot = bars + _BARS + _NUMBER + (_GAP + 62) * (sweep is not None)
    right = plot + (_PLOT if sweep else 0) + 24
    page = Page(right + BAR, TOP + tall + _FOOT)
    title = "Which layers stand sparsity?"
    page.text(LEFT, 38, title, size=32, bold=True)
    page.text(LEFT, 80, f"mean of {found.calls} · {found.header.model}", size=19, colour=FAINT)
    percent = 100 * found.error
    colours = _scale(percent)
    draw_cells(page, percent, colours, cell)
    label_rows(page, found.layers, cell[1])
    page.text(
        LEFT + wide / 2, TOP - 40, "share of the weights dropped (%)", size=17, align="center"
    )
    for n, each in enumerate(RATES):
        x = LEFT + (n + 0.5) * _CELL
        page.text(x, TOP - 14, f"{100 * each:g}", size=16, align="center", colour=FAINT)
    _draw_schedule(page, bars, rates, cell[1])
    if sweep is not None:
        _draw_sweep(page, plot, tall, sweep, rate)
    draw_bar(page, right, TOP, max(200, min(high, 480)), colours, "change of the output (%)")
    page.text(LEFT, TOP + tall + 76, _shortened(f"schedule: {schedule}", page), size=20, bold=True)
    explain(page, LEFT, TOP + tall + 116, _words(sweep))
    return page.render()


def _words(sweep: Sweep | None) -> str:
    first = (
        "Colours: the change of a layer's attention output as a share of its size, when that layer "
        "alone loses weights. Bars: what the schedule drops of each layer."
    )
    return first if sweep is None else f"{first} Dots: the probe beside a full sweep."


def _scale(percent: Tensor) -> ColourScale:
    """Ratios, over three decades at most; errors below are as good as none."""
    high = max(float(percent.max()), 1e-6)
    positive = percent[percent > 0]
    low = max(float(positive.min()) if len(positive) else high / 10, high / 1000)
    low = min(low, high / 4)
    return ColourScale(low, high, log=True, clipped=bool((percent < low).any()))


def _draw_schedule(page: Page, x: int, rates: Sequence[float], cell: int) -> None:
    """A bar for each layer, as long as the share that is dropped."""
    axes = page.axes(x, TOP, _BARS, len(rates) * cell)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rates), 0)
    axes.set_yticks([])
    axes.set_xticks([0, 0.5, 1], ["0", "50", "100"], fontsize=15)
    axes.grid(axis="x", color="#d0d7de", linewidth=1)
    axes.set_axisbelow(True)
    axes.barh([n + 0.5 for n in range(len(rates))], rates, height=0.7, color=ACCENT)
    page.text(x, TOP - 14, "schedule: dropped (%)", size=16, colour=FAINT)
    if cell >= 14:
        for n, rate in enumerate(rates):
            y = TOP + (n + 0.5) * cell
            page.text(x + _BARS + 46, y, f"{100 * rate:.0f}", size=min(17, cell), align="right")


def _draw_sweep(page: Page, x: int, high: int, sweep: Sweep, rate: float) -> None:
    """A dot for each layer: the probe's error across, the sweep's change upwards."""
    axes = page.axes(x, TOP, _PLOT, high)
    errors = (100 * torch.tensor(sweep.errors)).tolist()
    axes.plot(errors, sweep.changes, "o", color=ACCENT, markersize=9)
    _with_room(axes, errors, sweep.changes)
    axes.grid(color="#d0d7de", linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=15)
    axes.locator_params(nbins=5)
    for layer, error, change in zip(sweep.layers, errors, sweep.changes, strict=True):
        if len(sweep.layers) <= _NAMED or _stands_out(error, errors):
            at, beside = (error, change), (8, 4)
            axes.annotate(f"{layer}", at, beside, textcoords="offset points", size=15, color=INK)
    page.text(x, TOP - 40, f"rank correlation {_signed(sweep.rho)}", size=17)
    page.text(x, TOP - 14, "a dot for each layer", size=16, colour=FAINT)
    under = f"probe: change at {100 * rate:g} % dropped (%)"
    page.text(x + _PLOT / 2, TOP + high + 42, under, size=16, align="center")
    page.text(x - 62, TOP + high / 2, "sweep: measured change", size=16, upright=True)


def _with_room(axes: Axes, across: Sequence[float], up: Sequence[float]) -> None:
    """Room for the numbers beside the outermost dots."""
    for values, limit in ((across, axes.set_xlim), (up, axes.set_ylim)):
        low, high = min(values), max(values)
        room = (high - low) or abs(high) or 1.0
        limit(low - 0.1 * room, high + 0.18 * room)


def _stands_out(error: float, errors: Sequence[float]) -> bool:
    return error >= sorted(errors)[-min(3, len(errors))]


def _signed(value: float) -> str:
    """NaN is a dash: one side ranks nothing."""
    return "–" if value != value else f"{value:+.2f}".replace("-", "−")


def _shortened(words: str, page: Page) -> str:
    most = int((page.width - 2 * LEFT) / 12.5)  # letters of this size
    return words if len(words) <= most else f"{words[: most - 1]}…"
