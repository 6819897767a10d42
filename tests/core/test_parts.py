"""What video queries do within their frame, at their place and with each word, in dense float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from vdit_attention.tests.oracle import Case, wish_of
from vdit_attention.tests.parts import true_parts
from vdit_attention.tests.thinned import thinned
from vdit_attention.vdit_core.attention import PARTS, measure_parts, measure_words
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import UNTOUCHED, AttentionPlan, MapMix, Source, Threshold

B, HEADS, WIDTH = 2, 3, 16
GRID = TokenGrid(3, 2, 5)
JOINT = TokenGrid(3, 2, 5, prefix=4, suffix=3, text=(0, 4))
GRIDS = {
    "video alone": GRID,
    "text before, others after": JOINT,
    "one frame": TokenGrid(1, 3, 5),
    "one place": TokenGrid(7, 1, 1, suffix=2),
    "more than one tile": TokenGrid(5, 7, 11, prefix=3, suffix=2),
}
FIRST = torch.tensor([0, 0])
PLANS = {
    "untouched": UNTOUCHED,
    "temperature": AttentionPlan(temperature=torch.tensor([[0.5, 1, 2], [1, 3, 0.3]])),
    "source": AttentionPlan(source=Source(FIRST, torch.tensor([[0.0] * 3, [1, 0, 1]]))),
    "source in part": AttentionPlan(source=Source(FIRST, torch.tensor([[0.0] * 3, [0.4, 0, 1]]))),
    "gate": AttentionPlan(gate=torch.tensor([[0, 1, 0.5], [1, 0, 1]])),
    "mixture": AttentionPlan(
        map=MapMix(torch.full((B, HEADS), 0.2), torch.tensor([[0.3, 0, 0.8], [0, 0.1, 0]]))
    ),
    "identity": AttentionPlan(map=MapMix(torch.ones(B, HEADS), torch.zeros(B, HEADS))),
}


def operands(length: int, keys: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = B, HEADS, length, WIDTH
    q, k = (
        torch.randn(*shape[:2], n, WIDTH, generator=generator) for n in (length, keys or length)
    )
    return 2 * q, k


def maps_of(q: Tensor, k: Tensor, plan: AttentionPlan, mask: Tensor | None = None) -> Tensor:
    return Case(q, k, k, wish_of(replace(plan, gate=None), B, HEADS), mask).true_maps()


def check(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(PARTS)
    for name, values in wanted.items():
        torch.testing.assert_close(
            found[name], values, rtol=1e-4, atol=2e-6, equal_nan=True, msg=lambda m, n=name: n + m
        )


def parts(q: Tensor, k: Tensor, plan: AttentionPlan, grid: TokenGrid, **more: object):
    chosen = {"rows": [0, 1], "heads": torch.arange(HEADS)} | more
    return measure_parts(q, k, plan, grid=grid, **chosen)  # pyright: ignore


@pytest.mark.parametrize("name", GRIDS)
def test_parts_are_those_of_the_dense_map(name: str) -> None:
    grid = GRIDS[name]
    q, k = operands(len(grid))
    check(parts(q, k, UNTOUCHED, grid), true_parts(maps_of(q, k, UNTOUCHED), grid))


@pytest.mark.parametrize("name", PLANS)
def test_parts_are_those_of_the_map_as_the_edits_make_it(name: str) -> None:
    q, k = operands(len(JOINT))
    check(parts(q, k, PLANS[name], JOINT), true_parts(maps_of(q, k, PLANS[name]), JOINT))


def test_where_the_video_has_a_plan_of_its_own_too() -> None:
    q, k = operands(len(JOINT))
    plan = replace(UNTOUCHED, video=PLANS["temperature"]).placed(JOINT.video)
    check(parts(q, k, plan, JOINT), true_parts(maps_of(q, k, plan), JOINT))


def test_weights_that_were_dropped_are_in_no_part() -> None:
    q, k = operands(len(GRID))
    plan = AttentionPlan(threshold=Threshold(torch.full((B, HEADS), 0.8)))
    everything = torch.ones(len(GRID), len(GRID), dtype=torch.bool)
    dense = maps_of(q, k, UNTOUCHED).flatten(0, 1)
    maps = torch.stack([thinned(one, everything, 0.8, True) for one in dense])
    found = parts(q, k, plan, GRID)
    check(found, true_parts(maps.view(B, HEADS, *maps.shape[1:]), GRID))
    assert bool((found["temporal_mass"] < parts(q, k, UNTOUCHED, GRID)["temporal_mass"]).any())


@pytest.mark.parametrize("additive", [False, True])
def test_masked_keys_do_not_count_and_a_frame_may_be_hidden(additive: bool) -> None:
    q, k = operands(len(JOINT))
    seen = torch.ones(B, 1, len(JOINT), len(JOINT), dtype=torch.bool)
    seen[0, :, :, JOINT.prefix : JOINT.prefix + 10] = False  # the first frame, from all
    seen[1, :, :, 2:4] = False
    mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf) if additive else seen
    wanted = true_parts(maps_of(q, k, UNTOUCHED, mask), JOINT)
    check(parts(q, k, UNTOUCHED, JOINT, mask=mask), wanted)


def test_rows_and_heads_are_the_chosen_ones() -> None:
    q, k = operands(len(GRID))
    found = parts(q, k, UNTOUCHED, GRID, rows=[1], heads=torch.tensor([2, 0]))
    whole = true_parts(maps_of(q, k, UNTOUCHED), GRID)
    check(found, {name: values[1:, [2, 0]] for name, values in whole.items()})


def test_what_is_next_to_nothing_still_has_its_entropy() -> None:
    """Where all look at the last frame, weights on others are as e⁻²⁰⁰: flat, all the same."""
    q, k = torch.zeros(2, B, HEADS, len(GRID), WIDTH)
    q[..., 0], k[:, :, -10:, 0] = 200 * WIDTH**0.5, 1
    found = parts(q, k, UNTOUCHED, GRID)
    torch.testing.assert_close(
        found["spatial_entropy"], torch.full((B, HEADS), math.log(10)).double()
    )
    torch.testing.assert_close(found["spatial_mass"], torch.full((B, HEADS), 1 / 3).double())


def test_a_flat_map_has_the_largest_entropies_and_even_masses() -> None:
    q, k = torch.zeros(2, B, HEADS, len(GRID), WIDTH)
    found = {name: float(values[0, 0]) for name, values in parts(q, k, UNTOUCHED, GRID).items()}
    wanted = [math.log(10), math.log(3), 10 / 30, 3 / 30]
    assert list(found.values()) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", PLANS)
def test_words_are_columns_of_the_map(name: str) -> None:
    q, k = operands(len(JOINT))
    words, heads = slice(1, 4), torch.tensor([2, 0])
    how = {"grid": JOINT, "words": words, "rows": [1, 0], "heads": heads}
    found = measure_words(q, k, PLANS[name], **how)["prompt_places"]
    maps = maps_of(q, k, PLANS[name])[[1, 0]][:, heads]
    wanted = maps[..., JOINT.video, words].mean(1).mT
    assert found.shape == (2, 3, 30) and found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=1e-7)


def test_words_of_cross_attention_are_its_keys() -> None:
    grid = TokenGrid(3, 5, 7, prefix=2, suffix=1)
    q, k = operands(len(grid), keys=9)
    mask = (torch.arange(9) < torch.tensor([[9], [6]]))[:, None, None]
    how = {"grid": grid, "words": slice(0, 6), "rows": [0, 1], "heads": torch.arange(HEADS)}
    found = measure_words(q, k, UNTOUCHED, mask=mask, **how)["prompt_places"]
    wanted = maps_of(q, k, UNTOUCHED, mask)[..., grid.video, :6].mean(1).mT
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=1e-7)


def test_a_cancel_comes_through_and_broken_numbers_are_refused() -> None:
    class Cancelled(Exception):
        pass

    def poll() -> None:
        raise Cancelled

    q, k = operands(len(GRID))
    words = {"grid": GRID, "words": slice(0, 2), "rows": [0], "heads": torch.arange(HEADS)}
    with pytest.raises(Cancelled):
        parts(q, k, UNTOUCHED, GRID, poll=poll)
    with pytest.raises(Cancelled):
        measure_words(q, k, UNTOUCHED, poll=poll, **words)
    with pytest.raises(ValueError, match="k: holds NaN"):
        parts(q, k / 0, UNTOUCHED, GRID)
    with pytest.raises(ValueError, match="has 37 tokens, but there are 30 queries"):
        parts(q, k, UNTOUCHED, JOINT)
