"""Statistics of maps whose video has a plan of its own, against dense float64 maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from vdit_attention.tests.core.measured import Scene, check, padded, scene
from vdit_attention.tests.core.regional import (
    BESIDE,
    GRIDS,
    HEADS,
    INNER,
    PLANS,
    THINNED,
    WIDTH,
    B,
)
from vdit_attention.tests.oracle import Case, wish_of
from vdit_attention.tests.thinned import thinned_video
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import (
    UNTOUCHED,
    AttentionPlan,
)


def padded_text(grid: TokenGrid, plan: AttentionPlan) -> Tensor | None:
    """None where the plan of all tokens would take masks of other rows, or let a hidden token see
    itself."""
    return padded(B, grid, (0, 2, 5), "bool") if plan.source is None else None


@pytest.mark.parametrize("implementation", ["streaming", "reference"])
@pytest.mark.parametrize("name", PLANS)
def test_every_statistic_of_a_map_as_the_edits_made_it(name: str, implementation: str) -> None:
    grid, plan = TokenGrid(2, 3, 3, prefix=2, suffix=5), PLANS[name]
    mask, plan = padded_text(grid, plan), plan.placed(grid.video)
    wanted = scene(grid, batch=B, text=slice(20, 25), mask=mask, plan=plan)
    check(wanted.measured(implementation), wanted)


class Thin(Scene):
    """The same, without what a threshold drops."""

    def true_maps(self) -> Tensor:
        inner = self.plan.ungated.video
        assert inner is not None and inner.threshold is not None
        wish = wish_of(self.plan.ungated, B, HEADS)
        assert wish.video is not None
        case = Case(self.q, self.k, self.v, wish, self.mask)
        return thinned_video(case, inner.threshold, wish.video)


@pytest.mark.parametrize("implementation", ["streaming", "reference"])
@pytest.mark.parametrize("outer", [UNTOUCHED, BESIDE], ids=["alone", "beside others"])
@pytest.mark.parametrize("name", THINNED)
def test_every_statistic_of_a_map_that_was_thinned(
    name: str, outer: AttentionPlan, implementation: str
) -> None:
    grid = TokenGrid(2, 3, 3, prefix=2, suffix=5)
    mask = padded_text(grid, outer)
    plan = replace(outer, video=THINNED[name]).placed(grid.video)
    wanted = Thin(**vars(scene(grid, batch=B, text=slice(20, 25), mask=mask, plan=plan)))
    check(wanted.measured(implementation), wanted)


@pytest.mark.parametrize("tile", [1, 7, 25])
def test_tiles_of_any_size_give_the_same_answer(tile: int) -> None:
    """Some hold no video query at all."""
    grid = TokenGrid(2, 3, 3, prefix=2, suffix=5)
    plan = replace(UNTOUCHED, video=THINNED["with everything"]).placed(grid.video)
    wanted = scene(grid, batch=B, plan=plan)
    found, whole = wanted.measured(tile=tile), wanted.measured("reference")
    for name, value in vars(found).items():
        if value is not None:
            truth = getattr(whole, name)
            torch.testing.assert_close(value.double(), truth.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", ["streaming", "reference"])
def test_lse_is_that_of_all_scores_the_softmax_saw(implementation: str) -> None:
    grid = GRIDS["both"]
    plan = replace(BESIDE, video=INNER["temperature"]).placed(grid.video)
    wanted = scene(grid, batch=B, plan=plan)
    found = wanted.measured(implementation, wants=["lse"])["lse"]
    assert BESIDE.temperature is not None and plan.video is not None
    inner, source = plan.video.temperature, BESIDE.source
    assert inner is not None and source is not None
    for b in range(B):
        for h in range(HEADS):
            row = 0 if source.strength[b, h] == 1 else b
            products = wanted.q[row, h].double() @ wanted.k[row, h].double().T / WIDTH**0.5
            scores = products / BESIDE.temperature[b, h]
            scores[grid.video, grid.video] /= inner[b, h]
            torch.testing.assert_close(
                found[b, h].double(), scores.logsumexp(-1), rtol=1e-5, atol=1e-5
            )
