"""How large the values at the most attended token are, beside the others', head by head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from torch import Tensor

from ..sinks import Sighting, Sinks
from .canvas import ACCENT, FAINT, INK, Page
from .legend import explain, plain

_LEFT, _TOP, _WIDE, _HIGH, _BOTTOM, _KEY = 112, 150, 860, 460, 186, 40
_LEAST = 1e-3  # smaller ratios are drawn here
_NAMED = 12  # sinks whose heads fit beside their dots
_MARKS = {  # group: colour (of Okabe and Ito's, and grey), mark, size
    "never a sink": ("#c4c9d0", "o", 6),
    "sink less often": ("#e69f00", "D", 9),
    "sink": (ACCENT, "o", 11),
}


def draw_values(sinks: Sinks, below: str) -> Tensor:
    """A dot for each head at its layer: norm at the token over the mean norm elsewhere.

    A sink's is the mean of the calls in which it is one. below: the line under the title. Returns
    [1, h, w, 3].
    """
    page = Page(_LEFT + _WIDE + _KEY, _TOP + _HIGH + _BOTTOM)
    page.text(_LEFT, 38, "Values at the most attended token", size=32, bold=True)
    page.text(_LEFT, 80, below, size=19, colour=FAINT)
    groups = _groups(sinks)
    axes = page.axes(_LEFT, _TOP, _WIDE, _HIGH)
    ratios = [ratio for heads in groups.values() for ratio in heads.values()]
    _frame(axes, sinks, min(ratios), max(ratios))
    x = _LEFT
    for name, (colour, mark, size) in _MARKS.items():
        heads = groups[name]
        at = [_across(sinks, head) for head in heads]
        up = [max(ratio, _LEAST) for ratio in heads.values()]
        axes.plot(at, up, mark, color=colour, markersize=size, markeredgecolor=INK)
        x = _draw_key(page, x, f"{name}: {len(heads)}", colour, mark)
    if len(groups["sink"]) <= _NAMED:
        for (layer, head), ratio in groups["sink"].items():
            place = _across(sinks, (layer, head)), max(ratio, _LEAST)
            words: dict[str, Any] = {
                "fontsize": 15,
                "fontfamily": "DejaVu Sans",
                "color": INK,
                "ha": "center",
            }
            axes.annotate(f"{layer}:{head}", place, (0, 12), textcoords="offset points", **words)
    page.text(_LEFT + _WIDE / 2, _TOP + _HIGH + 48, "layer", size=19, align="center")
    page.text(
        _LEFT - 84, _TOP + _HIGH / 2, "norm there / mean norm elsewhere", size=19, upright=True
    )
    explain(page, _LEFT, _TOP + _HIGH + 96, _words(sorted(groups["sink"].values())))
    return page.render()


def _groups(sinks: Sinks) -> dict[str, dict[tuple[int, int], float]]:
    """By group the ratio of each layer and head."""
    found: dict[str, dict[tuple[int, int], list[Sighting]]] = {name: {} for name in _MARKS}
    for s in sinks.sightings:
        head = s.layer, s.head
        if not sinks.shares[head]:
            found["never a sink"].setdefault(head, []).append(s)
        elif s.sink:
            name = "sink" if sinks.is_listed(*head) else "sink less often"
            found[name].setdefault(head, []).append(s)
    return {
        name: {head: _ratio(calls) for head, calls in heads.items()}
        for name, heads in found.items()
    }


def _ratio(found: Sequence[Sighting]) -> float:
    return sum(s.norm for s in found) / (sum(s.others for s in found) or 1.0)


def _across(sinks: Sinks, head: tuple[int, int]) -> float:
    """Heads of a layer stand side by side around its number."""
    return head[0] + 0.7 * ((head[1] + 0.5) / sinks.header.heads - 0.5)


def _frame(axes: Axes, sinks: Sinks, least: float, most: float) -> None:
    layers = sorted({layer for layer, _ in sinks.shares})
    low, high = max(_LEAST, min(least, 0.3)) / 1.6, max(1.0, most) * 2
    axes.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = [t for t in (0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 100) if low <= t <= high]
    names = ["≤ " * (t == _LEAST and least < _LEAST) + plain(t) for t in ticks]
    axes.set_yticks(ticks, names, fontsize=17)
    axes.minorticks_off()
    every = -(-len(layers) // 16)
    axes.set_xticks(layers[::every], [str(layer) for layer in layers[::every]], fontsize=17)
    axes.grid(axis="y", color="#d0d7de", linewidth=1)
    axes.set_axisbelow(True)
    axes.axhline(1, color=FAINT, linewidth=2, linestyle="--")


def _words(ratios: Sequence[float]) -> str:
    """ratios: of the sinks, ascending."""
    words = (
        "A dot for each head, its name layer:head at a sink. Dashed: as large as the mean of the "
        "other tokens. Where the value is small, looking there adds little."
    )
    if not ratios:
        return words
    median = ratios[len(ratios) // 2]
    times = f"{median:.2g}" if median >= _LEAST else f"less than {_LEAST:g}"
    return f"{words} At these sinks it is {times} times the others (median)."


def _draw_key(page: Page, x: float, words: str, colour: str, mark: str) -> float:
    """An entry of the line above the plot; returns where the next one begins."""
    axes = page.axes(x, _TOP - 40, 24, 24)
    axes.set_axis_off()
    axes.plot([0], [0], mark, color=colour, markersize=11, markeredgecolor=INK)
    page.text(x + 34, _TOP - 28, words, size=19)
    return x + 250
