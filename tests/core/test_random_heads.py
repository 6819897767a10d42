"""Random heads: as many as given, none of those, each other one as likely, or refused."""

from __future__ import annotations

from collections import Counter

import pytest
from vdit_attention.vdit_core.random_heads import random_heads

HEADS = (4, 4, 5)
GIVEN = {0: (1,), 2: (0, 3)}


@pytest.mark.parametrize("seed", range(20))
def test_each_layer_gives_as_many_others(seed: int) -> None:
    drawn = random_heads(GIVEN, HEADS, "each layer", seed)
    assert {layer: len(heads) for layer, heads in drawn.items()} == {0: 1, 2: 2}
    assert all(not set(drawn[layer]) & set(GIVEN[layer]) for layer in drawn)
    assert drawn == random_heads(GIVEN, HEADS, "each layer", seed)


def test_over_all_layers_every_other_head_is_drawn_about_as_often() -> None:
    counts: Counter[tuple[int, int]] = Counter()
    for seed in range(400):
        drawn = random_heads(GIVEN, HEADS, "all layers", seed)
        assert sum(map(len, drawn.values())) == 3
        counts.update((layer, head) for layer, heads in drawn.items() for head in heads)
    others = {(n, h) for n, heads in enumerate(HEADS) for h in range(heads)}
    assert set(counts) == others - {(0, 1), (2, 0), (2, 3)}
    expected = 400 * 3 / len(counts)
    assert all(0.7 * expected < count < 1.3 * expected for count in counts.values())


def test_all_heads_that_are_left_can_be_drawn() -> None:
    assert random_heads({2: (0, 1)}, (0, 0, 4), "each layer", 3) == {2: (2, 3)}
    assert random_heads({}, HEADS, "each layer", 3) == {}


@pytest.mark.parametrize(
    ("given", "over", "words"),
    [
        (
            {1: (0, 1, 2)},
            "each layer",
            "heads: 3 of layer 1 are given, which leaves 1 others, but 3 are to be drawn; choose "
            "over = all layers, or give fewer heads",
        ),
        ({0: range(4), 1: range(4)}, "all layers", "8 of the model are given, which leaves 5"),
        ({}, "some", "over: got 'some', allowed are each layer, all layers"),
    ],
)
def test_more_than_there_are_is_refused(
    given: dict[int, tuple[int, ...]], over: str, words: str
) -> None:
    with pytest.raises(ValueError) as error:
        random_heads(given, HEADS, over, 0)
    assert words in str(error.value)
