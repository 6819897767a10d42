"""One picture of a run: what each case costs, and how memory grows with length."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .cases import GROWING
from .rows import LEAST_MB, Report, Row

SHOWN = (*GROWING, "dense map")


def draw(report: Report, path: Path) -> None:
    """Write the picture as a PNG."""
    bars = longest(report.rows)
    figure = Figure(figsize=(13, 2 + 0.28 * len(bars)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _bars(left, bars)
    _memory(right, report.rows)
    facts = report.facts
    figure.suptitle(f"{facts['device']}, torch {facts['torch']}, {facts['date']}")
    figure.savefig(path, dpi=120)


def longest(rows: list[Row]) -> list[Row]:
    """Of each case and implementation the row with the most work."""
    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = row.case, row.implementation
        if key not in best or row.shape.work > best[key].shape.work:
            best[key] = row
    return list(best.values())


def _bars(axes: Axes, rows: list[Row]) -> None:
    names = [f"{r.case} · {r.implementation} · {r.shape.tokens:,}" for r in rows]
    drawn = axes.barh(range(len(rows)), [r.ratio - 1 for r in rows], left=1, color="#4c78a8")
    axes.bar_label(drawn, [f"{r.ratio:.2f}" for r in rows], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.15)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time ÷ scaled_dot_product_attention, same run")


def _memory(axes: Axes, rows: list[Row]) -> None:
    known = [r for r in rows if r.memory is not None and r.case in SHOWN]
    for case, how in dict.fromkeys((r.case, r.implementation) for r in known):
        mine = [r for r in known if (r.case, r.implementation) == (case, how)]
        points = [(r.shape.tokens, max(r.memory or 0, LEAST_MB)) for r in mine]
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{case} · {how}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("tokens")
    axes.set_ylabel("MB beyond operands and answer")
    if known:
        axes.legend(fontsize=8)
