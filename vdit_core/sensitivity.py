"""Which layers stand sparsity: output errors of a record, and the schedules they lead to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import RATES, MapMeasures
from .measures.mass_curve import mass_kept
from .record import Header, Measurement, RecordData
from .selection import Selection
from .sites import BRANCHES, in_runs

TARGETS = ("rate", "error", "mass lost")
MOST = RATES[-1]  # beyond it nothing was measured
_HUNDREDTHS = torch.arange(101, dtype=torch.float64) / 100


@dataclass(frozen=True)
class Sensitivity:
    """What a record says of each captured layer, averaged over calls.

    error: [layers, len(RATES)] change of the attention's output, as a share of its size, without
    the smallest weights. lost: [layers, 101] share of the mass in the smallest 0, 1 … 100 % of the
    weights, None where that was not captured. calls: what was averaged, in words.
    """

    header: Header
    layers: tuple[int, ...]
    error: Tensor
    lost: Tensor | None
    calls: str

    def error_at(self, rates: Sequence[float]) -> Tensor:
        """Error of each layer at a rate of its own, straight lines between what was measured."""
        at = torch.tensor(rates, dtype=torch.float64)
        return torch.stack(
            [_between(curve, rate) for curve, rate in zip(self.error, at, strict=True)]
        )

    def rates(self, target: str, rate: float, limit: float, mass: float) -> list[float]:
        """The rate of each layer, in hundredths.

        target: "rate" drops `rate` everywhere but in layers whose error would exceed `limit`;
        "error" as much of each layer as keeps its error at `limit`; "mass lost" as much as holds
        `mass` of the layer's mass. Raises ValueError for what was not measured.
        """
        _check(target, rate, limit, mass)
        if target == "rate":
            errors = self.error_at([rate] * len(self.layers)).tolist()
            return [0.0 if error > limit else rate for error in errors]
        if target == "error":
            return [_floored(_reached(curve, limit)) for curve in self.error]
        if self.lost is None:
            raise ValueError(
                "target: 'mass lost' needs the mass at other rates, which was not captured; turn "
                "on sparsity on VDiT Capture and sample again, or choose target error"
            )
        within = (self.lost <= mass + 1e-9).sum(-1) - 1
        return [min(n / 100, MOST) for n in within.tolist()]


def sensitivity_of(data: RecordData, step: Selection, branch: str) -> Sensitivity:
    """Averages of the captured calls of these steps and this branch, with all videos.

    Raises ValueError for what was not captured.
    """
    chosen = _chosen(data, step, branch)
    by_layer: dict[int, list[Measurement]] = {}
    for m in chosen:
        by_layer.setdefault(m.layer, []).append(m)
    layers = tuple(sorted(by_layer))
    error = [_mean([relative_error(m.measures) for m in by_layer[n]]) for n in layers]
    known = all(m.measures.mass_curve is not None for m in chosen)
    lost = [_mean([_mass_lost(m.measures) for m in by_layer[n]]) for n in layers] if known else None
    return Sensitivity(
        data.header,
        layers,
        torch.stack(error),
        None if lost is None else torch.stack(lost),
        _words(chosen),
    )


def relative_error(measures: MapMeasures) -> Tensor:
    """√(Σ ‖Δ‖² / Σ ‖out‖²) over the captured heads of a layer, at each of RATES. [n] float64"""
    assert measures.output_error is not None and measures.output_norm is not None
    error, norm = measures.output_error.double(), measures.output_norm.double()
    return (error.square().sum(0) / norm.square().sum().clamp_min(1e-300)).sqrt()


def _mass_lost(measures: MapMeasures) -> Tensor:
    assert measures.mass_curve is not None
    curves = [mass_kept(curve, _HUNDREDTHS) for curve in measures.mass_curve]
    return 1 - torch.stack(curves).mean(0)


def _chosen(data: RecordData, step: Selection, branch: str) -> list[Measurement]:
    if branch not in BRANCHES:
        raise ValueError(f"branch: got {branch!r}, allowed are {', '.join(BRANCHES)}")
    steps = step.resolve(data.header.steps, "this record's sampling")
    found = [m for m in data.measurements if m.step in steps and branch in ("both", m.branch)]
    if not found:
        raise ValueError(
            f"record: nothing of steps {step.text}, branch {branch}; captured were "
            f"{_words(data.measurements) or 'no calls'}; choose from these, or widen the choice on "
            "VDiT Capture and sample again"
        )
    if any(m.measures.output_error is None for m in found):
        raise ValueError(
            "record: the output errors were not captured; turn on sensitivity on VDiT Capture and "
            "sample again"
        )
    return found


def _words(chosen: Sequence[Measurement]) -> str:
    """What is averaged: the steps, branches and videos of some measurements."""
    if not chosen:
        return ""
    steps = sorted({m.step for m in chosen})
    branches, videos = sorted({m.branch for m in chosen}), sorted({m.item for m in chosen})
    several = f", videos {in_runs(videos)}" if len(videos) > 1 else ""
    return f"step{'s' * (len(steps) > 1)} {in_runs(steps)}, {' and '.join(branches)}{several}"


def _check(target: str, rate: float, limit: float, mass: float) -> None:
    if target not in TARGETS:
        raise ValueError(f"target: got {target!r}, allowed are {', '.join(TARGETS)}")
    if not 0 < rate <= MOST:
        raise ValueError(
            f"rate: got {rate}, allowed is above 0 and up to {MOST}, the most measured"
        )
    for name, value in (("limit", limit), ("mass_lost", mass)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: got {value}, allowed is 0 to 1")


def _between(curve: Tensor, rate: Tensor) -> Tensor:
    """The value of a curve over RATES, which begins at (0, 0)."""
    places = torch.tensor((0.0, *RATES), dtype=torch.float64)
    values = torch.cat([curve.new_zeros(1), curve])
    right = int(torch.searchsorted(places, rate).clamp(1, len(RATES)))
    share = (rate - places[right - 1]) / (places[right] - places[right - 1])
    return torch.lerp(values[right - 1], values[right], share)


def _reached(curve: Tensor, limit: float) -> float:
    """The largest rate up to which no error exceeds the limit."""
    values = [0.0, *curve.tolist()]
    for n, (left, right) in enumerate(zip((0.0, *RATES), RATES, strict=False)):
        if values[n + 1] > limit:
            return left + (right - left) * (limit - values[n]) / (values[n + 1] - values[n])
    return MOST


def _floored(rate: float) -> float:
    """Down to hundredths, so that a limit is kept."""
    return math.floor(100 * rate + 1e-6) / 100


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([*values]).mean(0)
