"""How alike the maps of two records are, layer by layer, held against maps of other layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..record import Measurement, RecordData
from .legend import moment_text
from .likeness_sheet import draw_sheet
from .panels import Chosen, choose_heads
from .statistics import Statistics
from .table import Cell, Table

_FLOOR = 1e-6  # of an even share: smaller weights count as this
_FLAT = 1e-3  # standard deviation of the logarithms below which a map has no pattern to compare


@dataclass(frozen=True)
class Likeness:
    """values: [n, k] of this record's layers and the other's, NaN where a map is flat.

    layers: [n], others: [k] their numbers. partner: [n] which of the other's is the same layer, or
    the one at the same depth where the models differ in depth.
    """

    values: Tensor
    layers: list[int]
    others: list[int]
    partner: list[int]

    @property
    def same(self) -> Tensor:
        """Of each layer with its partner, [n]."""
        return self.values[torch.arange(len(self.layers)), self.partner]

    @property
    def control(self) -> Tensor:
        """Of each layer with all but its partner, the mean, [n]; NaN without others."""
        apart = self.values.clone()
        apart[torch.arange(len(self.layers)), self.partner] = torch.nan
        return apart.nanmean(1)

    @property
    def own_best(self) -> int:
        """How many layers are most alike to their partner."""
        best = self.values.nan_to_num(-2).argmax(1)
        return int((best == torch.tensor(self.partner)).sum())


def map_likeness(a: Tensor, b: Tensor, keys: int) -> Tensor:
    """Pearson correlation of the logarithms of pooled weights.

    a: [n, H, m, m], b: [k, H, m, m] of maps with so many keys. Returns [n, k], the mean over the
    heads: 1 for equal maps, near 0 for unrelated ones, NaN for flat ones.
    """
    x, y = (_standardised(maps, keys) for maps in (a, b))
    return torch.einsum("nhe,khe->nkh", x, y).nanmean(-1)


def _standardised(maps: Tensor, keys: int) -> Tensor:
    """Logarithms with mean 0 and length 1, [n, H, m²]; NaN for a flat map."""
    logs = maps.double().clamp_min(_FLOOR / keys).log().flatten(-2)
    centred = logs - logs.mean(-1, keepdim=True)
    length = centred.norm(dim=-1, keepdim=True)
    flat = length / logs.shape[-1] ** 0.5 < _FLAT
    return torch.where(flat, torch.nan, centred / length)


def compare_maps(data: RecordData, other: RecordData, chosen: Chosen) -> Likeness:
    """Compare the chosen layers of two records. Raises ValueError for maps of other places."""
    _, mine = chosen.calls(data)
    _, theirs = chosen.calls(other)
    _check_places(data, other)
    a, b = _maps(data, mine, chosen.head), _maps(other, theirs, chosen.head)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"head: {a.shape[1]} heads of this record cannot be compared with {b.shape[1]} of the "
            "other; write mean"
        )
    values = map_likeness(a, b, len(data.header.grid))
    layers, others = [m.layer for m in mine], [m.layer for m in theirs]
    depth, other_depth = (max(1, d.header.layers - 1) for d in (data, other))
    partner = [
        min(range(len(others)), key=lambda n: abs(others[n] / other_depth - layer / depth))
        for layer in layers
    ]
    return Likeness(values, layers, others, partner)


def _maps(data: RecordData, found: list[Measurement], head: str) -> Tensor:
    """[layers, H, m, m]: one head where the mean is asked for."""
    return torch.stack(
        [
            torch.stack(
                [m.measures.pooled_map[at].mean(0) for _, at in choose_heads(data, m, head)]
            )
            for m in found
        ]
    )


def _check_places(data: RecordData, other: RecordData) -> None:
    def words(one: RecordData) -> str:
        h = one.header
        window = "" if h.window is None else f", frames {h.window[0]} to {h.window[1]} of them"
        grid = h.grid
        return (
            f"{grid.frames} frames of {grid.rows} × {grid.cols} tokens{window}, map_size "
            f"{h.map_size}"
        )

    if words(data) != words(other):
        raise ValueError(
            f"other: its maps show {words(other)}, but this record's show {words(data)}; maps can "
            "be compared where both are alike"
        )


def draw_likeness(data: RecordData, other: RecordData, chosen: Chosen) -> Statistics:
    """The picture, a table per layer, and every pair of layers."""
    moment, _ = chosen.calls(data)
    found = compare_maps(data, other, chosen)
    best = found.values.nan_to_num(-2).max(1)
    rows: list[list[Cell]] = [
        [layer, found.others[at], *_known(numbers), found.others[int(most)]]
        for layer, at, numbers, most in zip(
            found.layers,
            found.partner,
            torch.stack([found.same, found.control], 1).tolist(),
            best.indices,
            strict=True,
        )
    ]
    names = ["layer", "other's layer", "alike", "with the others (mean)", "most alike to"]
    head = "Likeness of the maps of two records: correlation of the logarithms of pooled weights"
    when = moment_text(moment.header, moment)
    report = f"{head}\n{when}\n{summary(found)}\n\n{Table(names, rows).text()}"
    cells: list[list[Cell]] = [
        [moment.item, moment.step, moment.branch, layer, self_or_other, *_known([value])]
        for layer, line in zip(found.layers, found.values.tolist(), strict=True)
        for self_or_other, value in zip(found.others, line, strict=True)
    ]
    table = Table(["video", "step", "branch", "layer", "other's layer", "correlation"], cells)
    words = summary(found), chosen.head
    image = draw_sheet(moment, found.values, found.layers, found.others, found.partner, *words)
    return Statistics(image, report, table)


def summary(found: Likeness) -> str:
    """One line: the mean of the layers with themselves and, as a control, with all others."""
    same, control = float(found.same.nanmean()), float(found.control.nanmean())
    layers = len(found.layers)
    if control != control:
        return f"same layer {same:.2f}; no other layer was captured to hold it against"
    return (
        f"same layer {same:.2f}, other layers {control:.2f} on average; "
        f"{found.own_best} of {layers} layers are most alike to themselves"
    )


def _known(numbers: list[float]) -> list[Cell]:
    return [None if x != x else x for x in numbers]
