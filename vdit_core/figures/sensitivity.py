"""Sensitivity of a record's layers: its picture, its words and the schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..agreement import changes_by_layer, spearman
from ..attention import RATES
from ..record import RecordData
from ..selection import Selection, values_text
from ..sensitivity import Sensitivity, sensitivity_of
from ..sites import in_runs
from .sensitivity_sheet import Sweep, draw_sheet
from .table import Cell, Table


@dataclass(frozen=True)
class SensitivityFigure:
    """image: [1, H, W, 3] float 0..1. schedule: text for VDiT Sparsity. error: mean over the
    captured layers of what the schedule is predicted to change, as a share."""

    image: Tensor
    report: str
    table: Table
    schedule: str
    error: float


def draw_sensitivity(
    data: RecordData,
    *,
    target: str,
    rate: float,
    limit: float,
    mass_lost: float,
    step: Selection,
    branch: str,
    sweep: str | None = None,
) -> SensitivityFigure:
    """Errors of every captured layer and a schedule; see Sensitivity.rates.

    sweep: the csv of VDiT Sweep Report, to compare with. Raises ValueError for what was not
    captured and for a sweep of another model.
    """
    found = sensitivity_of(data, step, branch)
    rates = found.rates(target, rate, limit, mass_lost)
    schedule = values_text(dict(zip(found.layers, rates, strict=True)), data.header.layers)
    predicted: list[float] = found.error_at(rates).tolist()
    compared = None if sweep is None else _compared(found, rate, sweep)
    table = _table(found, rates, predicted, compared)
    wanted = {
        "rate": f"{rate:.0%} everywhere but in layers that would change by more than {limit:.1%}",
        "error": f"each layer's change at most {limit:.1%}",
        "mass lost": f"each layer's mass lost at most {mass_lost:.1%}",
    }[target]
    mean = sum(predicted) / len(predicted)
    lines = [
        "Change of each layer's attention output when its smallest weights are dropped",
        f"mean of {found.calls} · {data.header.model}",
        f"schedule: {schedule}",
        f"wanted: {wanted}",
        f"it drops {sum(rates) / len(rates):.1%} on average, spares "
        f"{_listed(found, rates)}, and is predicted to change a layer's output by {mean:.2%} on "
        f"average, at most {max(predicted):.2%}; each layer for itself, without what earlier ones "
        "pass on",
        *_about(found, data, rate, compared),
        "",
        _shown(found, rates, predicted).text(),
    ]
    image = draw_sheet(found, rates, rate, schedule, compared)
    return SensitivityFigure(image, "\n".join(lines), table, schedule, mean)


def _compared(found: Sensitivity, rate: float, text: str) -> Sweep:
    changes = changes_by_layer(text, found.header.layers)
    layers = [layer for layer in found.layers if layer in changes]
    if len(layers) < 3:
        raise ValueError(
            f"sweep: it and the record share layers {in_runs(layers) or 'none'} only, but a rank "
            "correlation needs 3 or more; capture the layers that were swept"
        )
    all_errors = found.error_at([rate] * len(found.layers)).tolist()
    errors = [all_errors[found.layers.index(layer)] for layer in layers]
    measured = [changes[layer] for layer in layers]
    return Sweep(layers, measured, errors, spearman(errors, measured))


def _listed(found: Sensitivity, rates: Sequence[float]) -> str:
    spared = [layer for layer, rate in zip(found.layers, rates, strict=True) if rate == 0]
    return f"layer{'s' * (len(spared) > 1)} {in_runs(spared)}" if spared else "none"


def _about(found: Sensitivity, data: RecordData, rate: float, sweep: Sweep | None) -> list[str]:
    """What the numbers do not say for themselves."""
    lines: list[str] = []
    if missing := [n for n in range(data.header.layers) if n not in found.layers]:
        lines.append(f"layers {in_runs(missing)} were not captured and are not in the schedule")
    if any(len(m.heads) < data.header.heads for m in data.measurements):
        lines.append("only some heads were captured; the errors are theirs")
    if sweep is not None:
        lines.append(
            f"rank correlation (Spearman) of the change at {rate:.0%} dropped with the sweep's: "
            f"{sweep.rho:+.3f} over {len(sweep.layers)} layers"
        )
    return lines


def _shown(found: Sensitivity, rates: Sequence[float], predicted: Sequence[float]) -> Table:
    """In percent, for the report."""
    columns = ["layer", *(f"{rate:.0%}" for rate in RATES), "dropped", "predicted"]
    rows: list[list[Cell]] = [
        [layer, *(100 * found.error[n]).tolist(), 100 * rates[n], 100 * predicted[n]]
        for n, layer in enumerate(found.layers)
    ]
    return Table(columns, rows)


def _table(
    found: Sensitivity, rates: Sequence[float], predicted: Sequence[float], sweep: Sweep | None
) -> Table:
    """A row for each layer, shares from 0 to 1."""
    columns = ["layer", *(f"error at {rate:g}" for rate in RATES), "rate", "predicted error"]
    rows: list[list[Cell]] = [
        [layer, *found.error[n].tolist(), rates[n], predicted[n]]
        for n, layer in enumerate(found.layers)
    ]
    if sweep is not None:
        changes = dict(zip(sweep.layers, sweep.changes, strict=True))
        columns.append("change in the sweep")
        for layer, row in zip(found.layers, rows, strict=True):
            row.append(changes.get(layer))
    return Table(columns, rows)
