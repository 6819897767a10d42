"""What VDiT Statistics can draw: numbers of a head, curves of a head, and what they mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention import RATES, TEMPERATURES, MapMeasures
from ..grid import TokenGrid
from ..measures.mass_curve import mass_kept
from ..record import Header
from ..sensitivity import relative_error

_RATES = torch.linspace(0, 1, 101, dtype=torch.float64)


@dataclass(frozen=True)
class Quantity:
    """One number per head. read: [H] in `unit`. switch: of VDiT Capture, that measures `needs`.

    title, words: for the picture; {keys}, {tau} and {rate} in them are the record's.
    """

    title: str
    unit: str
    words: str
    switch: str
    needs: str
    read: Callable[[Header, MapMeasures], Tensor]


@dataclass(frozen=True)
class Curve:
    """One curve per head, in percent. read: [H, n]. places: [n], where on the axis `across`.

    alike: [n] the curve of a head that looks everywhere alike, None where that says nothing. at: a
    place to mark. whole: [n] a layer's own curve where it is not the mean of its heads. log: the
    places are ratios.
    """

    title: str
    across: str
    up: str
    words: str
    switch: str
    needs: str
    places: Callable[[Header, MapMeasures], Tensor]
    read: Callable[[Header, MapMeasures], Tensor]
    alike: Callable[[Header], Tensor] | None
    at: Callable[[Header], float | None] = lambda header: None
    whole: Callable[[MapMeasures], Tensor] | None = None
    log: bool = False

    def of_layer(self, header: Header, measures: MapMeasures) -> Tensor:
        """[n] of all captured heads of a layer together."""
        return self.read(header, measures).mean(0) if self.whole is None else self.whole(measures)


def _plain(name: str, factor: float = 1.0) -> Callable[[Header, MapMeasures], Tensor]:
    return lambda header, measures: getattr(measures, name).double() * factor


def _entropy_share(header: Header, measures: MapMeasures) -> Tensor:
    return 100 * measures.entropy.double() / math.log(max(2, len(header.grid)))


def _value_norm_ratio(header: Header, measures: MapMeasures) -> Tensor:
    assert measures.value_norms is not None
    return measures.value_norms[:, 0].double() / measures.value_norms[:, 1]


def _log_threshold(header: Header, measures: MapMeasures) -> Tensor:
    assert measures.threshold is not None
    return measures.threshold.double().log10()


def _mean_distance(name: str) -> Callable[[Header, MapMeasures], Tensor]:
    def read(header: Header, measures: MapMeasures) -> Tensor:
        mass: Tensor = getattr(measures, name).double()
        return mass @ torch.arange(mass.shape[-1]).double() / mass.sum(-1)

    return read


def _distances(name: str) -> Callable[[Header, MapMeasures], Tensor]:
    return lambda header, measures: torch.arange(getattr(measures, name).shape[-1])


def _mass_kept(header: Header, measures: MapMeasures) -> Tensor:
    assert measures.mass_curve is not None
    return 100 * torch.stack([mass_kept(curve, _RATES) for curve in measures.mass_curve])


def _entropy_at(header: Header, measures: MapMeasures) -> Tensor:
    assert measures.temperature_entropy is not None
    return 100 * measures.temperature_entropy.double() / math.log(max(2, len(header.grid)))


def _head_error(header: Header, measures: MapMeasures) -> Tensor:
    """Each head's own, in percent of its output."""
    assert measures.output_error is not None and measures.output_norm is not None
    error, norm = measures.output_error.double(), measures.output_norm.double()
    return 100 * error / norm.clamp_min(1e-30)[:, None]


def _alike_by_frame(header: Header) -> Tensor:
    frame = torch.arange(header.grid.frames)
    return _alike(header.grid, (frame[:, None] - frame).abs())


def _alike(grid: TokenGrid, distance: Tensor) -> Tensor:
    """Percent of the mass of a uniform map at each distance [n, n]."""
    pairs = torch.bincount(distance.flatten()).double()
    return 100 * pairs / distance.numel() * grid.video_tokens / len(grid)


_LINES = "A line for each layer, the mean of its heads. Dashed: looking everywhere alike."

QUANTITIES: dict[str, Quantity | Curve] = {
    "entropy share": Quantity(
        "Entropy share",
        "%",
        "Mean row entropy as a share of log({keys} keys): 100 % looks everywhere alike, 0 % at one "
        "token.",
        "",
        "entropy",
        _entropy_share,
    ),
    "coverage": Quantity(
        "Coverage of the most attended token",
        "%",
        "The largest share of the queries that give one and the same key a weight of {tau} or "
        "more; a sink has over 50 %.",
        "sinks",
        "coverage",
        _plain("coverage", 100),
    ),
    "keys for 95 %": Quantity(
        "Keys that hold 95 % of the mass",
        "%",
        "The fewest keys that hold 95 % of a row, as a share of {keys} keys, mean of all rows.",
        "sparsity",
        "keys_for_95",
        _plain("keys_for_95", 100),
    ),
    "mass lost at rate": Quantity(
        "Mass lost at rate {rate}",
        "%",
        "The share of a head's mass in the smallest {rate} of its weights: what sparsity drops.",
        "sparsity",
        "mass_lost",
        _plain("mass_lost", 100),
    ),
    "realised rate": Quantity(
        "Realised rate",
        "%",
        "The share of a head's weights strictly below its quantile at {rate}; weights equal to it "
        "stay.",
        "sparsity",
        "realised_rate",
        _plain("realised_rate", 100),
    ),
    "threshold": Quantity(
        "Threshold at rate {rate}",
        "log10",
        "Decimal logarithm of the weight at the quantile {rate} of a head; an even share of {keys} "
        "keys is {even}.",
        "sparsity",
        "threshold",
        _log_threshold,
    ),
    "largest weight": Quantity(
        "Largest weight",
        "%",
        "The largest weight of a row, mean of all rows: 100 % looks at one token.",
        "sinks",
        "max_weight",
        _plain("max_weight", 100),
    ),
    "value norm ratio": Quantity(
        "Value norm at the most attended token",
        "",
        "The norm of the value at the token of the largest coverage, over the mean norm of the "
        "others; a sink's is small.",
        "sinks",
        "value_norms",
        _value_norm_ratio,
    ),
    "mean frame distance": Quantity(
        "Mean frame distance",
        "frames",
        "How many frames away a token looks, on average: |Δ frame| weighted by the mass.",
        "structure",
        "frame_distance_mass",
        _mean_distance("frame_distance_mass"),
    ),
    "mean spatial distance": Quantity(
        "Mean spatial distance",
        "tokens",
        "How far away in the picture, on average, a token looks, whatever the frame.",
        "structure",
        "spatial_distance_mass",
        _mean_distance("spatial_distance_mass"),
    ),
    "mass kept against rate": Curve(
        "Mass kept against rate",
        "share of the weights that is dropped, the smallest first (%)",
        "mass kept (%)",
        f"{_LINES} Dotted: the captured rate, {{rate}}.",
        "sparsity",
        "mass_curve",
        lambda header, measures: 100 * _RATES,
        _mass_kept,
        lambda header: 100 * (1 - _RATES),
        lambda header: None if header.rate is None else 100 * header.rate,
    ),
    "mass by frame distance": Curve(
        "Mass by distance in frames",
        "frames before or after the own",
        "share of the mass (%)",
        _LINES,
        "structure",
        "frame_distance_mass",
        _distances("frame_distance_mass"),
        _plain("frame_distance_mass", 100),
        _alike_by_frame,
    ),
    "mass by spatial distance": Curve(
        "Mass by distance in the picture",
        "distance in tokens, whatever the frame",
        "share of the mass (%)",
        _LINES,
        "structure",
        "spatial_distance_mass",
        _distances("spatial_distance_mass"),
        _plain("spatial_distance_mass", 100),
        lambda header: _alike(header.grid, header.grid.distances()),
    ),
    "entropy against temperature": Curve(
        "Entropy against temperature",
        "temperature T that the scores are divided by (1 = as they are)",
        "mean row entropy, share of log(keys) (%)",
        "Predicted from the captured scores. A line for each layer, the mean of its heads. Dashed: "
        "looking everywhere alike. Dotted: as captured.",
        "temperatures",
        "temperature_entropy",
        lambda header, measures: torch.tensor(TEMPERATURES, dtype=torch.float64),
        _entropy_at,
        lambda header: torch.full((len(TEMPERATURES),), 100.0),
        lambda header: 1.0,
        log=True,
    ),
    "output error against rate": Curve(
        "Output error against rate",
        "share of each head's weights that is dropped, the smallest first (%)",
        "change of the attention's output (%)",
        "How far a layer's attention output moves, as a share of its size: a line for each layer, "
        "its captured heads together.",
        "sensitivity",
        "output_error",
        lambda header, measures: 100 * torch.tensor(RATES, dtype=torch.float64),
        _head_error,
        None,
        whole=lambda measures: 100 * relative_error(measures),
    ),
}
STATISTICS = tuple(QUANTITIES)


def with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def filled(words: str, header: Header) -> str:
    """Words with the record's numbers in them."""
    keys = len(header.grid)
    even = f"−{math.log10(keys):.2f}"
    return words.format(keys=f"{keys:,}", tau=header.tau, rate=header.rate, even=even)
