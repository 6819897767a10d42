"""Norms of the values at the most attended token against the others', head by head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..sinks import Sighting, Sinks
from .canvas import ACCENT, FAINT, INK, Page
from .legend import explain, plain

_LEFT, _TOP, _SIDE, _BOTTOM, _KEY = 112, 116, 560, 170, 330
_NAMED = 12  # sinks whose names fit beside their dots
_OTHERS = "#e69f00"  # orange of the Okabe–Ito colours


def draw_values(sinks: Sinks, below: str) -> Tensor:
    """A dot for each head, means of its calls; a sink's of the calls in which it is one.

    below: the line under the title. Returns [1, h, w, 3].
    """
    page = Page(_LEFT + _SIDE + _KEY, _TOP + _SIDE + _BOTTOM)
    page.text(_LEFT, 38, "Values at the most attended token", size=32, bold=True)
    page.text(_LEFT, 80, below, size=19, colour=FAINT)
    groups = _groups(sinks)
    dots = {name: [_means(found) for found in heads.values()] for name, heads in groups.items()}
    axes = page.axes(_LEFT, _TOP, _SIDE, _SIDE)
    numbers = [n for pairs in dots.values() for pair in pairs for n in pair if n > 0]
    low, high = (min(numbers) / 1.4, max(numbers) * 1.4) if numbers else (0.1, 1.0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    ticks = _ticks(low, high)
    axes.set_xticks(ticks, [plain(tick) for tick in ticks], fontsize=17)
    axes.set_yticks(ticks, [plain(tick) for tick in ticks], fontsize=17)
    axes.minorticks_off()
    axes.grid(color="#d0d7de", linewidth=1)
    axes.set_axisbelow(True)
    axes.plot([low, high], [low, high], color=FAINT, linewidth=2, linestyle="--")
    for row, (name, (colour, mark, size)) in enumerate(_MARKS.items()):
        pairs = dots[name]
        at = [max(others, low) for _, others in pairs], [max(norm, low) for norm, _ in pairs]
        axes.plot(*at, mark, color=colour, markersize=size, markeredgecolor=INK, alpha=0.9)
        _draw_key(page, row, f"{name}: {len(pairs)}", colour, mark)
    if len(groups["sinks"]) <= _NAMED:
        for head, (norm, others) in zip(groups["sinks"], dots["sinks"], strict=True):
            axes.annotate(
                f"{head[0]}:{head[1]}",
                (max(others, low), max(norm, low)),
                xytext=(9, -4),
                textcoords="offset points",
                fontsize=15,
                fontfamily="DejaVu Sans",
                color=INK,
            )
    middle = _TOP + _SIDE / 2
    page.text(
        _LEFT + _SIDE / 2,
        _TOP + _SIDE + 48,
        "mean norm of the other tokens' values",
        size=19,
        align="center",
    )
    page.text(_LEFT - 84, middle, "norm of the value at the token", size=19, upright=True)
    explain(page, _LEFT, _TOP + _SIDE + 96, _words(dots["sinks"]))
    return page.render()


_MARKS = {  # group: colour, mark, size
    "never a sink": ("#c4c9d0", "o", 6),
    "less often": (_OTHERS, "D", 9),
    "sinks": (ACCENT, "o", 11),
}


def _groups(sinks: Sinks) -> dict[str, dict[tuple[int, int], list[Sighting]]]:
    groups: dict[str, dict[tuple[int, int], list[Sighting]]] = {name: {} for name in _MARKS}
    for s in sinks.sightings:
        head = s.layer, s.head
        if not sinks.shares[head]:
            groups["never a sink"].setdefault(head, []).append(s)
        elif s.sink:
            name = "sinks" if sinks.is_listed(*head) else "less often"
            groups[name].setdefault(head, []).append(s)
    return groups


def _means(found: Sequence[Sighting]) -> tuple[float, float]:
    """Norm at the token, and elsewhere."""
    return sum(s.norm for s in found) / len(found), sum(s.others for s in found) / len(found)


def _words(sinks: Sequence[tuple[float, float]]) -> str:
    words = (
        "A dot for each head, layer:head at a sink. Dashed: as large as the others. A sink whose "
        "value is small adds little where it is looked at."
    )
    if not sinks:
        return words
    shares = sorted(norm / others for norm, others in sinks if others > 0)
    median = f"{shares[len(shares) // 2]:.2g}"
    return f"{words} Here the sinks' values have {median} of the others' norm (median)."


def _draw_key(page: Page, row: int, words: str, colour: str, mark: str) -> None:
    x, y = _LEFT + _SIDE + 40, _TOP + 24 + 40 * row
    axes = page.axes(x - 12, y - 12, 24, 24)
    axes.set_axis_off()
    axes.plot([0], [0], mark, color=colour, markersize=11, markeredgecolor=INK)
    page.text(x + 22, y, words, size=19)


def _ticks(low: float, high: float) -> list[float]:
    """Round values on a log axis, few enough to read."""
    powers = [10.0**n for n in range(-12, 13)]
    steps = (1, 2, 5) if high / low < 100 else (1,)
    return [step * power for power in powers for step in steps if low <= step * power <= high]
