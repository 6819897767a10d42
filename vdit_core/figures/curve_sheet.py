"""Curves of the layers in one plot, coloured by depth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from torch import Tensor

from ..record import Header
from .canvas import FAINT, Page
from .colours import COLOURS
from .legend import explain, moment_text, plain
from .panels import Moment
from .quantities import Curve, filled

_LEFT, _TOP, _WIDE, _HIGH, _BOTTOM, _BAR = 112, 116, 800, 480, 164, 130
_DARKEST, _LIGHTEST = 0.08, 0.84  # of the colours: paler ones are lost on paper
_MARKED = 24  # places up to which each gets a dot


def draw_curves(
    header: Header,
    moment: Moment,
    asked: Curve,
    layers: Sequence[int],
    places: Tensor,
    curves: Tensor,
) -> Tensor:
    """places: [n]. curves: [layers, n] in percent. Returns [1, h, w, 3]."""
    page = Page(_LEFT + _WIDE + _BAR, _TOP + _HIGH + _BOTTOM)
    page.text(_LEFT, 38, filled(asked.title, header), size=32, bold=True)
    page.text(_LEFT, 80, moment_text(header, moment), size=19, colour=FAINT)
    axes = page.axes(_LEFT, _TOP, _WIDE, _HIGH)
    alike = None if asked.alike is None else asked.alike(header)
    _frame(axes, places, curves if alike is None else torch.cat([curves, alike[None]]), asked.log)
    if (at := asked.at(header)) is not None:
        axes.axvline(at, color=FAINT, linewidth=1.5, linestyle=":")
    at_places = places.tolist()
    if alike is not None:
        axes.plot(at_places, alike.tolist(), color=FAINT, linewidth=2, linestyle="--")
    colours = _colours(len(layers))
    mark = "o" if len(places) <= _MARKED else ""
    for curve, colour in zip(curves.tolist(), colours, strict=True):
        axes.plot(at_places, curve, color=colour, linewidth=2.5, marker=mark, markersize=7)
    page.text(_LEFT + _WIDE / 2, _TOP + _HIGH + 48, asked.across, size=19, align="center")
    page.text(_LEFT - 76, _TOP + _HIGH / 2, asked.up, size=19, upright=True)
    explain(page, _LEFT, _TOP + _HIGH + 100, filled(asked.words, header))
    _draw_layers(page, layers, colours)
    return page.render()


def _frame(axes: Axes, places: Tensor, curves: Tensor, log: bool) -> None:
    low, high = float(places.min()), float(places.max())
    if log:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.05, high * 1.05)
        ticks = [value for value in places.tolist() if math.log2(value).is_integer()]
        axes.set_xticks(ticks, [plain(value) for value in ticks])
        axes.set_xticks([], minor=True)
    else:
        edge = 0.02 * (high - low) or 0.5
        axes.set_xlim(low - edge, high + edge)
        axes.locator_params(axis="x", integer=True, nbins=12)
    axes.set_ylim(0, float(curves.max()) * 1.05)
    axes.grid(color="#d0d7de", linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=17)


def _colours(count: int) -> list[tuple[float, ...]]:
    """From dark to light, one for each layer."""
    along = torch.linspace(_DARKEST, _LIGHTEST, count).tolist()
    return [colormaps[COLOURS](share) for share in along]


def _draw_layers(page: Page, layers: Sequence[int], colours: Sequence[tuple[float, ...]]) -> None:
    """Which colour is which layer: a block each, the first on top."""
    x, high = _LEFT + _WIDE + 30, min(480, 36 * len(layers))
    rows = torch.arange(high) * len(layers) // high
    blocks = torch.tensor(colours)[:, :3].float()[rows][:, None].expand(high, 24, 3)
    page.picture(x, _TOP, blocks)
    each = high / len(layers)
    every = -(-20 // max(1, int(each)))
    for n in range(0, len(layers), every):
        page.text(x + 34, _TOP + (n + 0.5) * each, f"{layers[n]}", size=16)
    page.text(x + 86, _TOP + high / 2, "layer", size=17, upright=True)
