"""Edits of the video among itself in joint attention, against dense float64 maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from vdit_attention.tests.core.regional import (
    DTYPES,
    EVERYTHING,
    FIRST,
    GRIDS,
    HEADS,
    INNER,
    PLANS,
    THINNED,
    B,
    compare,
    masks,
    operands,
)
from vdit_attention.tests.oracle import Case, wish_of
from vdit_attention.vdit_core.attention import attend
from vdit_attention.vdit_core.attention.reference import reference_attend
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.sparsity import Sparsify
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import (
    REGIONS,
    UNTOUCHED,
    AttentionPlan,
    MapMix,
    Source,
    Threshold,
)
from vdit_attention.vdit_core.sites import Call, Site


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("implementation", ["dense", "streaming", "auto"])
@pytest.mark.parametrize("name", PLANS)
def test_every_edit_alone_and_with_others(
    name: str, implementation: str, dtype: torch.dtype
) -> None:
    for grid in GRIDS.values():
        compare(PLANS[name], grid, operands(grid, dtype), implementation)


@pytest.mark.parametrize("implementation", ["dense", "streaming", "reference"])
@pytest.mark.parametrize("kind", masks(GRIDS["both"]))
def test_masks_stay_in_force(kind: str, implementation: str) -> None:
    grid = GRIDS["both"]
    for plan in PLANS.values():
        compare(plan, grid, operands(grid), implementation, masks(grid)[kind])


def test_padded_text_in_half_precision() -> None:
    grid = GRIDS["text after"]
    for kind in ("bool", "lowest"):
        for plan in PLANS.values():
            mask = masks(grid, torch.bfloat16)[kind]
            compare(plan, grid, operands(grid, torch.bfloat16), "dense", mask)


@pytest.mark.parametrize("name", PLANS)
def test_the_reference_equals_the_formula_in_float64(name: str) -> None:
    grid = GRIDS["both"]
    x = operands(grid, torch.float64)
    plan = PLANS[name].placed(grid.video)
    truth = Case(*x, wish_of(plan, B, HEADS), scale=0.37).true_output()
    torch.testing.assert_close(reference_attend(*x, plan, scale=0.37), truth, rtol=0, atol=1e-12)


def test_text_queries_keep_their_own_map() -> None:
    grid = GRIDS["both"]
    x = operands(grid)
    plain = attend(*x, UNTOUCHED)
    text = [i for i in range(len(grid)) if not grid.video.start <= i < grid.video.stop]
    for name, inner in (INNER | {"everything": EVERYTHING}).items():
        plan = replace(UNTOUCHED, video=inner).placed(grid.video)
        for implementation in ("dense", "streaming", "reference"):
            out = attend(*x, plan, implementation=implementation)
            where = name, implementation
            torch.testing.assert_close(
                out[:, :, text], plain[:, :, text], msg=lambda m, w=where: f"{w}: {m}"
            )
            assert not torch.allclose(out[:, :, grid.video], plain[:, :, grid.video]), where


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_untouched_rows_and_heads_stay_bit_identical(dtype: torch.dtype) -> None:
    grid = GRIDS["both"]
    x = operands(grid, dtype)
    plain = attend(*x, UNTOUCHED)
    strength = torch.zeros(B, HEADS)
    strength[2, 1] = 1
    plan = replace(UNTOUCHED, video=AttentionPlan(source=Source(FIRST, strength)))
    changed = (attend(*x, plan.placed(grid.video)) != plain).flatten(2).any(-1)
    assert changed.nonzero().tolist() == [[2, 1]]


ONES, ZEROS = torch.ones(B, HEADS), torch.zeros(B, HEADS)


@pytest.mark.parametrize(
    "inner",
    [
        AttentionPlan(temperature=ONES),
        AttentionPlan(gate=ONES),
        AttentionPlan(map=MapMix(ZEROS, ZEROS)),
        AttentionPlan(source=Source(FIRST, ZEROS)),
        AttentionPlan(threshold=Threshold(ZEROS)),
    ],
    ids=["temperature", "gate", "map", "source", "threshold"],
)
def test_a_neutral_plan_is_bit_identical_to_none(inner: AttentionPlan) -> None:
    grid = GRIDS["both"]
    x = operands(grid, torch.bfloat16)
    plan = replace(UNTOUCHED, video=inner).placed(grid.video)
    assert torch.equal(attend(*x, plan), attend(*x, UNTOUCHED))


@pytest.mark.parametrize("region", REGIONS)
def test_each_edit_changes_the_plan_of_its_region(region: str) -> None:
    site = Site("blocks.0.attn", 0, "joint", HEADS)
    call = Call(site, 0, 0, 1.0, ("cond",) * 4, (0, 1, 0, 1))
    chosen = torch.ones(4, HEADS, dtype=torch.bool)
    changes = [
        Temperature(0.5, region),
        Skip(region),
        Perturb("uniform", 0.5, region),
        PairTransfer(1.0, region),
        Sparsify((0.5,), region=region),
    ]
    for change in changes:
        plan = change.apply(UNTOUCHED, call, chosen)
        changed = plan if region == "all" else plan.video
        assert changed is not None and getattr(changed, change.field) is not None
        other = plan.video if region == "all" else replace(plan, video=None)
        assert other is None or other.empty


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            replace(UNTOUCHED, video=INNER["gate"]),
            r"needs video and other tokens .* got 118 .* video tokens at None \(see AttentionPlan",
        ),
        (
            replace(UNTOUCHED, video=INNER["gate"]).placed(slice(0, 118)),
            "needs video and other tokens in one sequence",
        ),
        (
            replace(THINNED["alone"], video=INNER["gate"]).placed(slice(5, 110)),
            "sparsity in all cannot be combined with edits in video→video",
        ),
        (
            replace(INNER["source in part"], video=INNER["gate"]).placed(slice(5, 110)),
            "a transfer in part in all cannot be combined",
        ),
    ],
    ids=["not placed", "video only", "threshold of all", "source of all in part"],
)
def test_what_cannot_be_carried_out_is_refused_in_words(plan: AttentionPlan, message: str) -> None:
    x = operands(TokenGrid(1, 1, 118))
    for implementation in ("dense", "streaming", "reference"):
        with pytest.raises(ValueError, match=message):
            attend(*x, plan, implementation=implementation)
