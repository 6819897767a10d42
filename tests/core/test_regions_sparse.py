"""Weights and blocks dropped among the video itself, against dense float64 maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from vdit_attention.tests.core.regional import (
    BESIDE,
    GRIDS,
    HEADS,
    INNER,
    RATES,
    THINNED,
    B,
    operands,
    thinned_case,
)
from vdit_attention.tests.oracle import Case, wish_of
from vdit_attention.tests.thinned import thinned_video, video_in_blocks
from vdit_attention.vdit_core.attention import Thinning, attend
from vdit_attention.vdit_core.plan import (
    UNTOUCHED,
    AttentionPlan,
    Blocks,
    Threshold,
)


@pytest.mark.parametrize("implementation", ["dense", "streaming", "reference"])
@pytest.mark.parametrize("outer", [UNTOUCHED, BESIDE], ids=["alone", "beside others"])
@pytest.mark.parametrize("name", THINNED)
def test_weights_are_dropped_inside_the_block(
    name: str, outer: AttentionPlan, implementation: str
) -> None:
    grid, inner = GRIDS["both"], THINNED[name]
    case = thinned_case(inner, outer, grid)
    x = case.q, case.k, case.v
    assert inner.threshold is not None and case.wish.video is not None
    wanted = thinned_video(case, inner.threshold, case.wish.video) @ case.v.double()
    plan = replace(outer, video=inner).placed(grid.video)
    if implementation == "reference":
        x = case.q.double(), case.k.double(), case.v.double()
    found = attend(*x, plan, implementation=implementation)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("implementation", ["dense", "streaming"])
def test_a_row_that_loses_all_its_video_keeps_its_text(implementation: str) -> None:
    grid = GRIDS["both"]
    q, k, v = operands(grid)
    video = grid.video
    q[:, :, video.start : video.start + 60] *= 0.0
    q[:, :, video.start + 60 : video.stop] *= 10
    inner = AttentionPlan(threshold=Threshold(torch.full((B, HEADS), 0.997)))
    plan = replace(UNTOUCHED, video=inner).placed(video)
    case = Case(q, k, v, wish_of(plan, B, HEADS))
    assert inner.threshold is not None and case.wish.video is not None
    wanted = thinned_video(case, inner.threshold, case.wish.video)
    assert bool((wanted[:, :, video.start, video] == 0).all())
    found = attend(q, k, v, plan, implementation=implementation)
    torch.testing.assert_close(found.double(), wanted @ v.double(), rtol=1e-4, atol=2e-5)


def test_what_was_dropped_is_told_of_the_block() -> None:
    grid, reports = GRIDS["both"], list[Thinning]()
    x = operands(grid)
    plan = replace(UNTOUCHED, video=AttentionPlan(threshold=Threshold(RATES, False)))
    attend(*x, plan.placed(grid.video), report=reports.append)
    alone = AttentionPlan(threshold=Threshold(RATES, False))
    q, k, v = (t[:, :, grid.video] for t in x)
    attend(q, k, v, alone, report=reports.append)
    for name in ("weights", "realised_rate", "mass_lost"):
        values = [getattr(report, name) for report in reports]
        torch.testing.assert_close(*values, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("implementation", ["dense", "streaming", "reference"])
def test_given_thresholds_count_in_the_block(implementation: str) -> None:
    """As the two-run mode gives them: 0.02 of what a row holds on the video."""
    grid = GRIDS["text after"]
    x = operands(grid)
    weights = torch.full((B, HEADS), 0.02)
    inner = AttentionPlan(threshold=Threshold(RATES, False, weights))
    plan = replace(UNTOUCHED, video=inner).placed(grid.video)
    maps = Case(*x, wish_of(plan, B, HEADS)).true_maps()
    block = maps[..., grid.video, grid.video]
    keep = block >= 0.02 * block.sum(-1, keepdim=True)
    maps[..., grid.video, grid.video] *= keep | (RATES == 0)[:, :, None, None]
    q, k, v = (t.double() for t in x)
    found = attend(q, k, v, plan, implementation=implementation)
    torch.testing.assert_close(found, maps @ x[2].double(), rtol=1e-6, atol=1e-6)


def some_blocks(size: int, tokens: int) -> Tensor:
    count = -(-tokens // size)
    kept = torch.rand(B, HEADS, count, count, generator=torch.Generator().manual_seed(5)) > 0.6
    kept[..., 0] = True
    return kept | (RATES == 0)[..., None, None]


@pytest.mark.parametrize("implementation", ["dense", "streaming", "reference"])
@pytest.mark.parametrize("outer", [UNTOUCHED, BESIDE], ids=["alone", "beside others"])
@pytest.mark.parametrize("size", [8, 64])
def test_blocks_of_the_video_are_left_out(
    size: int, outer: AttentionPlan, implementation: str
) -> None:
    grid = GRIDS["both"]
    blocks = Blocks(size, kept=some_blocks(size, grid.video_tokens))
    inner = replace(INNER["source"], threshold=Threshold(RATES, blocks=blocks))
    case = thinned_case(inner, outer, grid)
    plan = replace(outer, video=inner).placed(grid.video)
    assert blocks.kept is not None
    maps = video_in_blocks(case, blocks.kept, size)
    found = attend(case.q, case.k, case.v, plan, implementation=implementation)
    torch.testing.assert_close(found.double(), maps @ case.v.double(), rtol=1e-4, atol=2e-5)


def test_the_heaviest_blocks_of_the_video_are_kept() -> None:
    grid, reports = GRIDS["both"], list[Thinning]()
    x = operands(grid)
    inner = AttentionPlan(threshold=Threshold(RATES, blocks=Blocks(16)))
    plan = replace(UNTOUCHED, video=inner).placed(grid.video)
    found = attend(*x, plan, report=reports.append)
    q, k, v = (t[:, :, grid.video] for t in x)
    attend(q, k, v, inner, report=reports.append)
    assert reports[0].kept is not None and reports[1].kept is not None
    assert torch.equal(reports[0].kept, reports[1].kept)
    maps = video_in_blocks(Case(*x, wish_of(plan, B, HEADS)), reports[0].kept, 16)
    torch.testing.assert_close(found.double(), maps @ x[2].double(), rtol=1e-4, atol=2e-5)


def test_blocks_and_a_transfer_in_part_are_refused_in_words() -> None:
    grid = GRIDS["both"]
    thin = Threshold(RATES, blocks=Blocks(8))
    inner = replace(INNER["source in part"], threshold=thin)
    with pytest.raises(ValueError, match="block mode cannot be combined with a transfer in part"):
        attend(*operands(grid), replace(UNTOUCHED, video=inner).placed(grid.video))
