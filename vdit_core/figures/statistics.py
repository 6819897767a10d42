"""One statistic of a record, layer by layer: its picture and its table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..record import Header, Measurement, RecordData
from ..selection import Selection, parse_selection
from .curve_sheet import draw_curves
from .heat_sheet import draw_heat
from .legend import moment_text
from .panels import Moment, choose_calls
from .pictures import evenly
from .quantities import QUANTITIES, Curve, Quantity, filled, with_unit
from .table import Cell, Table

_COLUMNS = 9  # of a curve's table, at most


@dataclass(frozen=True)
class Statistics:
    """image: [1, H, W, 3] float 0..1. report: a table as text. table: every number of each head."""

    image: Tensor
    report: str
    table: Table


def draw_statistic(
    data: RecordData, *, statistic: str, step: Selection, branch: str, item: int = 0
) -> Statistics:
    """Draw a statistic of every captured layer, a heat map over the heads or a curve each.

    step, branch: as in attention_map. Raises ValueError for a statistic that was not captured.
    """
    if statistic not in QUANTITIES:
        raise ValueError(f"statistic: got {statistic!r}, allowed are {', '.join(QUANTITIES)}")
    asked, everything = QUANTITIES[statistic], parse_selection("all", "layers")
    moment, found = choose_calls(data, everything, step, branch, item)
    if any(getattr(m.measures, asked.needs) is None for m in found):
        raise ValueError(
            f"statistic: {statistic!r} was not captured; turn on {asked.switch} on VDiT Capture "
            "and sample again"
        )
    if isinstance(asked, Curve):
        return _curves(moment.header, moment, found, asked)
    return _heat(moment.header, moment, found, asked, statistic)


def _heat(
    header: Header, moment: Moment, found: Sequence[Measurement], asked: Quantity, name: str
) -> Statistics:
    heads = sorted({head for m in found for head in m.heads})
    values = torch.full((len(found), len(heads)), torch.nan, dtype=torch.float64)
    rows, cells = list[Tensor](), list[list[Cell]]()
    for row, m in enumerate(found):
        numbers = asked.read(header, m.measures)
        values[row, [heads.index(head) for head in m.heads]] = numbers
        rows.append(torch.stack((numbers.mean(), numbers.min(), numbers.max())))
        cells += [[m.layer, *pair] for pair in zip(m.heads, numbers.tolist(), strict=True)]
    layers = [m.layer for m in found]
    summary = _summary(layers, ("mean", "min", "max"), rows)
    report = _report(header, moment, with_unit(asked.title, asked.unit), summary)
    image = draw_heat(header, moment, asked, with_unit(name, asked.unit), layers, heads, values)
    columns = ["layer", "head", with_unit(name, asked.unit)]
    return Statistics(image, report, _labelled(moment, columns, cells))


def _curves(
    header: Header, moment: Moment, found: Sequence[Measurement], asked: Curve
) -> Statistics:
    layers, places = [m.layer for m in found], asked.places(header, found[0].measures)
    of_heads = [asked.read(header, m.measures) for m in found]
    curves = torch.stack([asked.of_layer(header, m.measures) for m in found])
    shown = evenly(len(places), _COLUMNS)
    summary = _summary(layers, [f"{float(places[n]):g}" for n in shown], curves[:, shown])
    title = f"{asked.title}: {asked.up}, by {asked.across}"
    report = _report(header, moment, title, summary)
    cells: list[list[Cell]] = [
        [m.layer, head, *point]
        for m, heads in zip(found, of_heads, strict=True)
        for head, curve in zip(m.heads, heads.tolist(), strict=True)
        for point in zip(places.tolist(), curve, strict=True)
    ]
    table = _labelled(moment, ["layer", "head", asked.across, asked.up], cells)
    return Statistics(draw_curves(header, moment, asked, layers, places, curves), report, table)


def _report(header: Header, moment: Moment, title: str, summary: list[str]) -> str:
    return "\n".join([filled(title, header), moment_text(header, moment), "", *summary])


def _labelled(moment: Moment, columns: list[str], cells: list[list[Cell]]) -> Table:
    """Numbers with when and for whom they were measured, line by line."""
    labels: list[Cell] = [moment.item, moment.step, moment.branch]
    return Table(["video", "step", "branch", *columns], [[*labels, *row] for row in cells])


def _summary(layers: Sequence[int], columns: Sequence[str], rows: Iterable[Tensor]) -> list[str]:
    lines = [f"{'layer':>5}" + "".join(f"{name:>11}" for name in columns)]
    for layer, row in zip(layers, rows, strict=True):
        lines.append(f"{layer:>5}" + "".join(f"{value:>11.4g}" for value in row.tolist()))
    return lines
