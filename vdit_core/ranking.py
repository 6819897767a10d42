"""Which layers or heads look widely, and which narrowly: the top and the bottom share of a number.

2504.12027 splits layers into the half of higher and the half of lower normalised entropy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Granularity = Literal["layers", "heads"]
Side = Literal["high", "low"]
GRANULARITIES: tuple[Granularity, ...] = ("layers", "heads")
SIDES: tuple[Side, ...] = ("high", "low")

Numbers = Mapping[int, Mapping[int, float]]  # a number for each head of each layer


@dataclass(frozen=True)
class Ranked:
    """Of the heads that an edit names, those that its own sampling tells: the high or the low ones.

    share, side, granularity: of normalised row entropy, see `share_of`. steps: so many of the first
    are measured, before the edit acts.
    """

    share: float
    side: Side
    granularity: Granularity = "layers"
    steps: int = 1

    def __post_init__(self) -> None:
        check_share(self.share)
        if self.steps < 1:
            raise ValueError(f"first_steps: got {self.steps}, at least 1 must be measured")


def check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"share: got {share}, allowed is 0 to 1; 0.5 is half of them")


def granularity_of(text: str) -> Granularity:
    """What a user asked for. Raises ValueError for another word."""
    for one in GRANULARITIES:
        if text == one:
            return one
    raise ValueError(f"granularity: got {text!r}, allowed are {', '.join(GRANULARITIES)}")


def share_of(
    numbers: Numbers, share: float, side: Side, granularity: Granularity = "layers"
) -> dict[int, tuple[int, ...]]:
    """The heads, by layer, of the given share with the highest or the lowest numbers.

    share: in 0..1, rounded down to whole layers (their numbers are the means of their heads) or
    heads, at least one; so high and low share nothing up to 0.5. Of equals the first counts as
    lower. 0 is none. Raises ValueError for a share outside.
    """
    check_share(share)
    values = {
        (layer, *rest): value
        for layer, heads in numbers.items()
        for rest, value in _pieces(heads, granularity)
    }
    ranked = sorted(values, key=lambda key: (values[key], key))
    count = min(len(ranked), max(1, int(share * len(ranked) + 1e-9))) if share else 0
    chosen = ranked[len(ranked) - count :] if side == "high" else ranked[:count]
    found: dict[int, set[int]] = {}
    for layer, *rest in chosen:
        found.setdefault(layer, set()).update(rest or numbers[layer])
    return {layer: tuple(sorted(heads)) for layer, heads in sorted(found.items())}


def _pieces(
    heads: Mapping[int, float], granularity: Granularity
) -> list[tuple[tuple[int, ...], float]]:
    """What of a layer is ranked as one, with its number."""
    if granularity == "layers":
        return [((), sum(heads.values()) / len(heads))]
    return [((head,), value) for head, value in heads.items()]
