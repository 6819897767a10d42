"""`measure` against dense float64 maps: pooled afterwards, entropy and log-sum-exp row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from vdit_attention.tests.oracle import Case, no_wish, wish_of
from vdit_attention.vdit_core.attention import MapMeasures, measure
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import UNTOUCHED, AttentionPlan, MapMix, Source

HEADS = 3
GRIDS = {
    "video only": TokenGrid(3, 5, 7),
    "reference before": TokenGrid(3, 5, 7, prefix=35),
    "text after": TokenGrid(2, 3, 5, suffix=4),
    "both": TokenGrid(2, 3, 5, prefix=3, suffix=4),
    "one token": TokenGrid(1, 1, 1),
}
PLANS = {
    "untouched": UNTOUCHED,
    "everything": AttentionPlan(
        source=Source(torch.tensor([0, 0]), torch.tensor([[0, 0, 0], [1, 0.5, 0]])),
        temperature=torch.tensor([[0.5, 1, 2], [1, 1, 0.7]]),
        map=MapMix(
            torch.tensor([[0.2, 0, 0], [0, 0, 0.5]]), torch.tensor([[0, 0.3, 0], [0, 0, 0.5]])
        ),
    ),
}


def operands(grid: TokenGrid, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn(2, HEADS, len(grid), 16, generator=generator).to(dtype) for _ in range(2))
    return 2 * q, k


def pooled_afterwards(maps: Tensor, grid: TokenGrid, size: int) -> tuple[Tensor, Tensor]:
    """Block means and mass on other keys of one row's dense maps [H, L, L], in float64."""
    bins, video = grid.bins(size), maps[:, grid.video]
    inside = video[:, :, grid.video]
    member = torch.nn.functional.one_hot(bins).double()
    mean = member / member.sum(0)
    return mean.T @ inside @ mean, (1 - inside.sum(-1)) @ mean


@pytest.mark.parametrize("size", [8, 10, 512])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", GRIDS)
def test_pooled_maps_equal_dense_maps_pooled_afterwards(name: str, plan: str, size: int) -> None:
    grid = GRIDS[name]
    q, k = operands(grid)
    maps = Case(q, k, k, wish_of(PLANS[plan], 2, HEADS)).true_maps()
    for row, result in enumerate(measure(q, k, grid=grid, plan=PLANS[plan], map_size=size)):
        blocks, others = pooled_afterwards(maps[row], grid, size)
        torch.testing.assert_close(result.pooled_map.double(), blocks, rtol=3e-5, atol=1e-9)
        torch.testing.assert_close(result.other_mass.double(), others, rtol=3e-5, atol=1e-6)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", GRIDS)
def test_entropy_is_the_mean_over_rows_of_the_map_that_acts(name: str, plan: str) -> None:
    grid = GRIDS[name]
    q, k = operands(grid)
    maps = Case(q, k, k, wish_of(PLANS[plan], 2, HEADS)).true_maps()
    expected = torch.special.entr(maps).sum(-1).mean(-1)
    found = torch.stack([m.entropy for m in measure(q, k, grid=grid, plan=PLANS[plan])])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_lse_is_that_of_the_scores_divided_by_the_temperature() -> None:
    grid, temperature = TokenGrid(3, 5, 7), torch.tensor([[0.5, 1, 2], [1, 1, 0.7]])
    q, k = operands(grid)
    scores = 0.3 * torch.einsum("bhid,bhjd->bhij", q.double(), k.double())
    lse = (scores / temperature[:, :, None, None].double()).logsumexp(-1)
    found = measure(q, k, grid=grid, plan=AttentionPlan(temperature=temperature), scale=0.3)
    for row, result in enumerate(found):
        torch.testing.assert_close(result.lse_mean.double(), lse[row].mean(-1), rtol=1e-5, atol=0)
        torch.testing.assert_close(result.lse_max.double(), lse[row].amax(-1), rtol=1e-5, atol=0)


def test_lse_of_a_full_transfer_is_the_source_rows() -> None:
    grid = TokenGrid(2, 3, 5)
    q, k = operands(grid)
    plan = AttentionPlan(source=Source(torch.tensor([0, 0]), torch.tensor([[0.0] * 3, [1.0] * 3])))
    source, target = measure(q, k, grid=grid, plan=plan)
    for name in vars(source):
        assert torch.equal(getattr(source, name), getattr(target, name)), name


@pytest.mark.parametrize("tile", [1, 2, 7, 34, 105, 1000])
@pytest.mark.parametrize("name", ["video only", "reference before", "both"])
def test_any_tile_size_gives_the_same_answer(name: str, tile: int) -> None:
    grid, plan = GRIDS[name], PLANS["everything"]
    q, k = operands(grid)
    whole = measure(q, k, grid=grid, plan=plan, tile=len(grid))
    for expected, found in zip(whole, measure(q, k, grid=grid, plan=plan, tile=tile), strict=True):
        for field in vars(expected):
            torch.testing.assert_close(
                getattr(found, field), getattr(expected, field), rtol=2e-5, atol=1e-6
            )


def test_chosen_rows_and_heads_come_back_in_the_order_asked() -> None:
    grid = TokenGrid(2, 3, 5)
    q, k = operands(grid)
    everything = measure(q, k, grid=grid, plan=PLANS["everything"])
    heads = torch.tensor([2, 0])
    (one,) = measure(q, k, grid=grid, plan=PLANS["everything"], rows=[1], heads=heads)
    for field in vars(one):
        torch.testing.assert_close(getattr(one, field), getattr(everything[1], field)[heads])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_measured_in_float32(dtype: torch.dtype) -> None:
    grid = TokenGrid(3, 5, 7)
    q, k = operands(grid, dtype)
    maps = Case(q, k, k, no_wish(2, HEADS)).true_maps()
    for row, result in enumerate(measure(q, k, grid=grid, map_size=10)):
        blocks, _ = pooled_afterwards(maps[row], grid, 10)
        assert result.pooled_map.dtype == torch.float32
        torch.testing.assert_close(result.pooled_map.double(), blocks, rtol=3e-5, atol=1e-9)


def test_a_masked_key_gets_no_weight() -> None:
    grid = TokenGrid(1, 2, 3, suffix=5)
    q, k = operands(grid)
    mask = (torch.arange(len(grid)) < 8)[None, None, None]
    maps = Case(q, k, k, no_wish(2, HEADS), mask).true_maps()
    assert bool((maps[..., 8:] == 0).all())
    for row, result in enumerate(measure(q, k, grid=grid, mask=mask)):
        blocks, others = pooled_afterwards(maps[row], grid, 64)
        torch.testing.assert_close(result.pooled_map.double(), blocks, rtol=3e-5, atol=1e-9)
        torch.testing.assert_close(result.other_mass.double(), others, rtol=3e-5, atol=1e-6)


def test_a_grid_of_another_length_is_an_error() -> None:
    q, k = operands(TokenGrid(2, 3, 5))
    with pytest.raises(ValueError, match="has 32 tokens, but there are 30 queries and 30 keys"):
        measure(q, k, grid=TokenGrid(2, 3, 5, prefix=2))


def test_one_flipped_block_would_be_noticed() -> None:
    grid = TokenGrid(3, 5, 7)
    q, k = operands(grid)
    found: MapMeasures = measure(q, k, grid=grid, map_size=9)[0]
    blocks, _ = pooled_afterwards(Case(q, k, k, no_wish(2, HEADS)).true_maps()[0], grid, 9)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            found.pooled_map.double(), blocks.transpose(1, 2), rtol=3e-5, atol=1e-9
        )
