"""Entropy or energy of a record's layers: the picture, the words, and the top and bottom share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..entropy import Levels
from ..ranking import Granularity, granularity_of
from ..sites import in_runs
from .entropy_sheet import Sides, draw_sheet
from .quantities import with_unit
from .table import Cell, Table


@dataclass(frozen=True)
class EntropyFigure:
    """image: [1, H, W, 3] float 0..1. high, low: heads as text. …_layers: layers as text."""

    image: Tensor
    report: str
    high: str
    low: str
    high_layers: str
    low_layers: str
    table: Table


def draw_entropy(levels: Levels, share: float, granularity: str) -> EntropyFigure:
    """Draw the levels with the given share of layers or heads marked at both ends.

    The texts of layers are of whole layers whatever the granularity. Raises ValueError for a share
    or granularity that does not exist.
    """
    asked = granularity_of(granularity)
    sides = _sides(levels, share, asked)
    whole = sides if asked == "layers" else _sides(levels, share, "layers")
    high, low = levels.write(sides.high), levels.write(sides.low)
    layers = levels.write_layers(whole.high), levels.write_layers(whole.low)
    lines = [
        f"{levels.quantity.title} ({levels.quantity.unit})",
        f"mean of {levels.calls} · {levels.header.model}",
        f"highest {100 * share:g} % of the {asked}: {high}",
        f"lowest {100 * share:g} % of the {asked}: {low}",
        *_about(levels),
        "",
        _by_layer(levels, whole).text(),
    ]
    image = draw_sheet(levels, sides, layers if asked == "layers" else (high, low))
    return EntropyFigure(image, "\n".join(lines), high, low, *layers, _table(levels, sides))


def _sides(levels: Levels, share: float, granularity: Granularity) -> Sides:
    high, low = (levels.share(share, side, granularity) for side in ("high", "low"))
    return Sides(share, granularity, high, low)


def _about(levels: Levels) -> list[str]:
    """What was not captured, and so not ranked."""
    lines: list[str] = []
    header = levels.header
    if missing := [n for n in range(header.layers) if n not in levels.layers]:
        lines.append(f"layers {in_runs(missing)} were not captured and are not ranked")
    if len(levels.heads) < header.heads:
        lines.append(
            f"heads {in_runs(levels.heads)} of {header.heads} were captured; means are theirs"
        )
    return lines


def _by_layer(levels: Levels, sides: Sides) -> Table:
    """A row for each layer."""
    unit = with_unit("mean", levels.quantity.unit)
    order = levels.by_layer.argsort(descending=True).tolist()
    rows: list[list[Cell]] = []
    for n, layer in enumerate(levels.layers):
        known = levels.by_head[n][levels.by_head[n].isfinite()]
        ends = (float(known.min()), float(known.max())) if len(known) else (None, None)
        mean, part = float(levels.by_layer[n]), float(levels.proportions[n])
        rows.append([layer, mean, *ends, part, order.index(n) + 1, sides.of(layer)])
    columns = ["layer", unit, "least head", "largest head", "of the total (%)", "rank", "share"]
    return Table(columns, rows)


def _table(levels: Levels, sides: Sides) -> Table:
    """Every captured head at every step, and in which share it is."""
    name = with_unit(levels.name, levels.quantity.unit)
    rows: list[list[Cell]] = []
    for n, layer in enumerate(levels.layers):
        for at, head in enumerate(levels.heads):
            mean, side = float(levels.by_head[n, at]), sides.of(layer, head)
            for step, value in zip(levels.steps, levels.values[n, at].tolist(), strict=True):
                if value == value:
                    rows.append([layer, head, step, value, mean, side])
    return Table(["layer", "head", "step", name, "mean of the steps", "share"], rows)
