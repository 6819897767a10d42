"""How well two rankings of the layers agree: a probe's and a full sweep's."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

import torch
from torch import Tensor

FEWEST = 3  # layers, below which a rank correlation says nothing


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation, −1 … 1; equal values share their ranks. NaN where one side is constant."""
    first, second = _ranks(a), _ranks(b)
    first, second = first - first.mean(), second - second.mean()
    size = float(first.norm() * second.norm())
    return float(first @ second) / size if size else math.nan


def changes_by_layer(text: str, count: int) -> dict[int, float]:
    """`change` by `layer`, from the csv of VDiT Sweep Report; several of one layer are averaged.

    Rows that are not of one layer alone are left out. count: layers of the model. Raises
    ValueError for text without these columns, or too few layers to compare.
    """
    reader = csv.DictReader(io.StringIO(text.strip()))
    columns = [name.strip() for name in reader.fieldnames or ()]
    if missing := [name for name in ("layer", "change") if name not in columns]:
        raise ValueError(
            f"sweep: it has no column {' and no column '.join(missing)}, only "
            f"{', '.join(columns) or 'an empty text'}; connect csv of VDiT Sweep Report"
        )
    reader.fieldnames = columns
    found: dict[int, list[float]] = {}
    for row in reader:
        layer, change = (row["layer"] or "").strip(), (row["change"] or "").strip()
        if layer.isdecimal() and change:
            found.setdefault(_layer(int(layer), count), []).append(_number(change, layer))
    if len(found) < FEWEST:
        raise ValueError(
            f"sweep: it has {len(found)} single layers with a change, but a rank correlation "
            f"needs {FEWEST} or more; sweep over more layers, one at a time"
        )
    return {layer: sum(values) / len(values) for layer, values in sorted(found.items())}


def _ranks(values: Sequence[float]) -> Tensor:
    """Place of each value in ascending order, the mean place of equal ones."""
    x = torch.tensor(values, dtype=torch.float64)
    below = (x[:, None] > x).sum(1).double()
    equal = (x[:, None] == x).sum(1).double()
    return below + (equal - 1) / 2


def _layer(layer: int, count: int) -> int:
    if layer >= count:
        raise ValueError(
            f"sweep: it names layer {layer}, but the record's model has layers 0 to {count - 1}; "
            "the sweep and the record must be of one model"
        )
    return layer


def _number(text: str, layer: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"sweep: the change of layer {layer} is {text!r}, which is no number")
    return number
