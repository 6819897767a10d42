"""What `measure` gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measures:
    """Statistics of the map M of each chosen batch row and head; what was not asked for is None.

    All but `out` are float32 or float64 and lie where q lies. B and H count chosen rows and heads.

    out: [B, H, Lq, D] M V. lse: [B, H, Lq] log-sum-exp of the scores. entropy: [B, H, Lq] of each
    row in nats. energy: [B, H] Σ out² (2504.12027, Fig. 4). max_weight: [B, H, Lq] largest weight
    of each row. column_sums: [B, H, Lk] weight each key receives, summed over queries.
    coverage: [B, H] largest share of the queries that give one key at least `tau`; coverage_key:
    [B, H] that key. value_norms: [B, H, 2] norm of V at that key, and its mean elsewhere.
    threshold: [B, H] the weight at the quantile `rate` of the head's allowed weights;
    realised_rate: [B, H] share of them strictly below it; mass_lost: [B, H] the share of the mass
    they hold. mass_curve: [B, H, 2, n] rates, and mass kept at each (see measures/spectrum.py).
    keys_for_95: [B, H] mean share of a row's allowed keys that hold 95 % of its mass.
    frame_distance_mass: [B, H, F] and spatial_distance_mass: [B, H, n] mean mass of a video query
    on video keys by distance in frames, and in tokens of the picture. text_mass: [B, H, T] mean
    mass on each token of the span "text". pooled_map: [B, H, m, m] mean weight per block of video
    tokens; other_mass: [B, H, m] mass of its query bins outside the map. frame_mass: [B, H, F, F]
    mean mass of the video queries of each frame on the video keys of each frame. text_own_mass:
    [B, H, T] mean mass of the queries in the span "text" on each of its tokens.
    """

    out: Tensor | None = None
    lse: Tensor | None = None
    entropy: Tensor | None = None
    energy: Tensor | None = None
    max_weight: Tensor | None = None
    column_sums: Tensor | None = None
    coverage: Tensor | None = None
    coverage_key: Tensor | None = None
    value_norms: Tensor | None = None
    threshold: Tensor | None = None
    realised_rate: Tensor | None = None
    mass_lost: Tensor | None = None
    mass_curve: Tensor | None = None
    keys_for_95: Tensor | None = None
    frame_distance_mass: Tensor | None = None
    spatial_distance_mass: Tensor | None = None
    text_mass: Tensor | None = None
    pooled_map: Tensor | None = None
    other_mass: Tensor | None = None
    frame_mass: Tensor | None = None
    text_own_mass: Tensor | None = None

    def __getitem__(self, field: str) -> Tensor:
        """A field that was asked for. Raises KeyError for one that was not."""
        if (value := getattr(self, field)) is None:
            raise KeyError(f"{field} was not measured; name it in `wants`")
        return value


FIELDS = tuple(Measures.__dataclass_fields__)
NEED_VALUES = frozenset({"out", "energy", "value_norms"})
NEED_GRID = frozenset(
    {
        "frame_distance_mass",
        "spatial_distance_mass",
        "pooled_map",
        "other_mass",
        "frame_mass",
        "text_own_mass",
    }
)
NEED_TEXT = frozenset({"text_mass", "text_own_mass"})


@dataclass(frozen=True)
class MapMeasures:
    """What a record keeps of one call and batch row, all on the CPU; H heads.

    pooled_map, other_mass: as in Measures. entropy, lse_mean, lse_max: [H] over the rows. The rest
    is as in Measures where it was captured; entropy_rows is [H, Lq], max_weight the mean, [H].
    output_error [H, n]: ‖out without the smallest weights − out‖ at each of RATES, over all
    queries. output_norm [H]: ‖out‖. temperature_entropy [H, n]: at each of TEMPERATURES times the
    call's own, mean over the rows (see probes.py). energy [H]: as in Measures. spatial_entropy,
    temporal_entropy [H]: of a video query's weights on the keys of its own frame, and on those at
    its own place in all frames, each renormalised, mean over the queries that have any there.
    spatial_mass, temporal_mass [H]: what these keys hold of a row (its own token is in both).
    prompt_places [T, F·R·C] bfloat16: the weight each video token gives each token of the prompt
    without its padding, mean of the heads (see parts.py).
    """

    pooled_map: Tensor
    other_mass: Tensor
    entropy: Tensor
    lse_mean: Tensor
    lse_max: Tensor
    entropy_rows: Tensor | None = None
    max_weight: Tensor | None = None
    column_sums: Tensor | None = None
    coverage: Tensor | None = None
    coverage_key: Tensor | None = None
    value_norms: Tensor | None = None
    threshold: Tensor | None = None
    realised_rate: Tensor | None = None
    mass_lost: Tensor | None = None
    mass_curve: Tensor | None = None
    keys_for_95: Tensor | None = None
    frame_distance_mass: Tensor | None = None
    spatial_distance_mass: Tensor | None = None
    text_mass: Tensor | None = None
    frame_mass: Tensor | None = None
    text_own_mass: Tensor | None = None
    output_error: Tensor | None = None
    output_norm: Tensor | None = None
    temperature_entropy: Tensor | None = None
    energy: Tensor | None = None
    spatial_entropy: Tensor | None = None
    temporal_entropy: Tensor | None = None
    spatial_mass: Tensor | None = None
    temporal_mass: Tensor | None = None
    prompt_places: Tensor | None = None

    @classmethod
    def of(
        cls, measures: Measures, row: int, further: Mapping[str, Tensor] | None = None
    ) -> MapMeasures:
        """The row-th row of a measurement that holds at least the first five's sources.

        further: fields beside it, [rows, …].
        """
        found = {k: v[row] for k, v in vars(measures).items() if v is not None}
        found |= {k: v[row] for k, v in (further or {}).items()}
        lse, entropy = found.pop("lse"), found.pop("entropy")
        found |= {"lse_mean": lse.mean(-1, dtype=torch.float64), "lse_max": lse.amax(-1)}
        found |= {"entropy": entropy.mean(-1, dtype=torch.float64)}
        if "column_sums" in found:
            found["entropy_rows"] = entropy
        if "max_weight" in found:
            found["max_weight"] = found["max_weight"].mean(-1, dtype=torch.float64)
        as_is = torch.int64, torch.bfloat16
        whole = {k: v if v.dtype in as_is else v.float() for k, v in found.items()}
        return cls(**{k: v.cpu() for k, v in whole.items()})


@dataclass(frozen=True)
class TextMeasures:
    """What a record keeps of one call of cross-attention and batch row, all on the CPU; H heads.

    text_mass: [H, T] as in Measures. entropy: [H] over the rows. prompt_places: as in MapMeasures.
    """

    text_mass: Tensor
    entropy: Tensor
    prompt_places: Tensor | None = None

    @classmethod
    def of(
        cls, measures: Measures, row: int, further: Mapping[str, Tensor] | None = None
    ) -> TextMeasures:
        """The row-th row of a measurement that holds the fields ALWAYS_KEPT_OF_CROSS.

        further: fields beside it, [rows, …].
        """
        entropy = measures["entropy"][row].mean(-1, dtype=torch.float64)
        more = {k: v[row] for k, v in (further or {}).items()}
        return cls(measures["text_mass"][row].float().cpu(), entropy.float().cpu(), **more)


KEPT = tuple(MapMeasures.__dataclass_fields__)
ALWAYS_KEPT = ("pooled_map", "other_mass", "entropy", "lse")
KEPT_OF_CROSS = tuple(TextMeasures.__dataclass_fields__)
ALWAYS_KEPT_OF_CROSS = ("text_mass", "entropy")
MORE_KEPT: dict[str, tuple[str, ...]] = {
    "sinks": ("column_sums", "coverage", "coverage_key", "value_norms", "max_weight"),
    "structure": ("frame_distance_mass", "spatial_distance_mass", "frame_mass"),
    "text": ("text_mass", "text_own_mass"),
    "sparsity": ("threshold", "realised_rate", "mass_lost", "mass_curve", "keys_for_95"),
    "energy": ("energy",),
}
