"""The top and the bottom share of layers and heads."""

from __future__ import annotations

import pytest
from vdit_attention.vdit_core.ranking import share_of

NUMBERS = {
    0: {0: 0.9, 1: 0.1},  # mean 0.5
    1: {0: 0.6, 1: 0.8},  # mean 0.7
    2: {0: 0.2, 1: 0.2},  # mean 0.2
    4: {0: 0.3, 1: 0.5},  # mean 0.4
    7: {0: 0.7, 1: 0.5},  # mean 0.6
}


def test_half_of_five_layers_leaves_the_middle_one_out() -> None:
    assert share_of(NUMBERS, 0.5, "high") == {1: (0, 1), 7: (0, 1)}
    assert share_of(NUMBERS, 0.5, "low") == {2: (0, 1), 4: (0, 1)}


def test_heads_are_ranked_over_all_layers() -> None:
    assert share_of(NUMBERS, 0.3, "high", "heads") == {0: (0,), 1: (1,), 7: (0,)}
    assert share_of(NUMBERS, 0.3, "low", "heads") == {0: (1,), 2: (0, 1)}


def test_of_equals_the_first_is_lower() -> None:
    even = {layer: {0: 0.5} for layer in range(4)}
    assert share_of(even, 0.5, "low") == {0: (0,), 1: (0,)}
    assert share_of(even, 0.5, "high") == {2: (0,), 3: (0,)}


@pytest.mark.parametrize(("share", "layers"), [(0, 0), (0.01, 1), (0.6, 3), (1, 5)])
def test_a_share_is_rounded_down_but_any_share_is_something(share: float, layers: int) -> None:
    assert len(share_of(NUMBERS, share, "low")) == layers


def test_a_share_outside_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share: got 1\.5, allowed is 0 to 1"):
        share_of(NUMBERS, 1.5, "high")
