"""The change by layer as a plot and, for a transfer, each layer between source and target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from torch import Tensor

from .canvas import ACCENT, FAINT, Page, text_width
from .legend import explain

_LEFT, _TOP, _WIDE, _HIGH, _RIGHT = 112, 124, 860, 400, 40
_BETWEEN, _BELOW = 130, 160  # a second plot, the words
_WARM = "#d55e00"  # orange of the Okabe–Ito colours
_LINES = "#d0d7de"
_EDGE = 0.07  # of an axis, below 0
_AROUND = [(0, -1), (1, 0), (0, 1), (-1, 0), (1, -1), (-1, -1), (1, 1), (-1, 1)]


@dataclass(frozen=True)
class Place:
    """One layer. change: its video's distance to the reference. apart: to the source, if any."""

    layer: int
    change: float
    apart: float | None


def draw_ranking(
    places: Sequence[Place],
    ranks: Mapping[int, int],
    spared: Sequence[int],
    title: str,
    without: bool,
    apart: float | None,
) -> Tensor:
    """ranks: by layer. title: of the change. without: each video lacks its layer's edit.

    apart: distance of source and reference. Returns [1, h, w, 3].
    """
    second = 0 if apart is None else _HIGH + _BETWEEN
    page = Page(_LEFT + _WIDE + _RIGHT, _TOP + _HIGH + second + _BELOW)
    question = "What does sparing each layer leave?" if without else "What does each layer change?"
    page.text(_LEFT, 38, question, size=30, bold=True)
    page.text(_LEFT, 80, _order(without), size=18, colour=FAINT)
    _draw_changes(page, places, ranks, spared, title)
    if apart is not None:
        _draw_between(page, places, spared, title, apart)
    words = "Orange: the layers that the schedule spares. " if spared else ""
    if apart is not None:
        words += (
            "Below, a number is a layer: far left like the source, far down like the reference."
        )
    explain(page, _LEFT, _TOP + _HIGH + second + 98, words)
    return page.render()


def _order(without: bool) -> str:
    what = "least change with the layer left out" if without else "largest change"
    return f"Small numbers: rank, 1 is the {what}. Change: of the whole video."


def _draw_changes(
    page: Page,
    places: Sequence[Place],
    ranks: Mapping[int, int],
    spared: Sequence[int],
    title: str,
) -> None:
    """A line from 0 to each layer's change, in the order of the layers, with its rank on top."""
    axes = page.axes(_LEFT, _TOP, _WIDE, _HIGH)
    most = max(place.change for place in places) or 1.0
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.set_ylim(0, 1.14 * most)
    _calm(axes, "y")
    room = _WIDE / len(places)
    every = -(-26 // max(1, int(room)))
    ticks = range(0, len(places), every)
    axes.set_xticks(list(ticks), [str(places[n].layer) for n in ticks], fontsize=17)
    for n, place in enumerate(places):
        colour = _WARM if place.layer in spared else ACCENT
        axes.plot([n, n], [0, place.change], color=colour, linewidth=min(4, room / 5))
        axes.plot(
            [n], [place.change], "o", color=colour, markersize=min(12, room / 2), clip_on=False
        )
        y = _TOP + _HIGH * (1 - place.change / (1.14 * most)) - 18
        size = 16 if room > 26 else 12
        x = _LEFT + (n + 0.6) * _WIDE / (len(places) + 0.2)
        page.text(x, y, str(ranks[place.layer]), size=size, colour=FAINT, align="center")
    page.text(_LEFT + _WIDE / 2, _TOP + _HIGH + 50, "layer", size=18, align="center")
    page.text(_LEFT - 84, _TOP + _HIGH / 2, title, size=18, upright=True)


def _draw_between(
    page: Page, places: Sequence[Place], spared: Sequence[int], title: str, apart: float
) -> None:
    """Distance to the source against distance to the reference; a number is a layer."""
    top = _TOP + _HIGH + _BETWEEN
    axes = page.axes(_LEFT, top, _WIDE, _HIGH)
    points = [(place.apart or 0.0, place.change) for place in places]
    across = 1.14 * max(apart, *(x for x, _ in points)) or 1.0
    up = 1.14 * max(apart, *(y for _, y in points)) or 1.0
    axes.set_xlim(-_EDGE * across, across)
    axes.set_ylim(-_EDGE * up, up)
    _calm(axes, "both")
    ends = {"source": (0.0, apart), "reference": (apart, 0.0)}
    labels = [(name, *at, FAINT) for name, at in ends.items()]
    for x, y in ends.values():
        axes.plot([x], [y], "D", color=FAINT, markersize=11, clip_on=False)
    for place, (x, y) in zip(places, points, strict=True):
        colour = _WARM if place.layer in spared else ACCENT
        axes.plot([x], [y], "o", color=colour, markersize=10)
        labels.append((str(place.layer), x, y, colour))
    pixels = [
        (word, _LEFT + _WIDE * (x / across + _EDGE) / (1 + _EDGE), _y(top, y / up), colour)
        for word, x, y, colour in labels
    ]
    _write_beside(page, pixels)
    page.text(
        _LEFT + _WIDE / 2, top + _HIGH + 50, f"to the source: {title}", size=18, align="center"
    )
    page.text(_LEFT - 84, top + _HIGH / 2, "to the reference", size=18, upright=True)


def _y(top: float, share: float) -> float:
    return top + _HIGH * (1 - (share + _EDGE) / (1 + _EDGE))


def _write_beside(page: Page, points: Sequence[tuple[str, float, float, str]]) -> None:
    """Each word beside its point (pixels), where it covers no other word and no point."""
    taken = [(x - 7, y - 7, x + 7, y + 7) for _, x, y, _ in points]
    for word, x, y, colour in points:
        half = text_width(word, 17) / 2 + 2
        centres = [
            (x + far * a * (half + 11), y + far * b * 20) for far in (1, 2) for a, b in _AROUND
        ]
        boxes = [(u - half, v - 9, u + half, v + 9) for u, v in centres]
        free = [box for box in boxes if not any(_overlap(box, other) for other in taken)]
        box = (free or boxes)[0]
        taken.append(box)
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        page.text(*middle, word, size=17, colour=colour, align="center")


_Box = tuple[float, float, float, float]


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _calm(axes: Axes, which: Literal["both", "y"]) -> None:
    axes.grid(axis=which, color=_LINES, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=16)
