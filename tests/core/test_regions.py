"""Edits of the video among itself in joint attention, against dense float64 maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from vdit_attention.tests.core.test_measure import Scene, check, padded, scene
from vdit_attention.tests.oracle import Case, assert_as_good_as_torch, wish_of
from vdit_attention.tests.thinned import thinned_video, video_in_blocks
from vdit_attention.vdit_core.attention import Thinning, attend
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
    Blocks,
    MapMix,
    Source,
    Threshold,
)
from vdit_attention.vdit_core.sites import Call, Site

B, HEADS, WIDTH = 3, 3, 16
GRIDS = {
    "text after": TokenGrid(2, 3, 5, suffix=11),
    "text before": TokenGrid(3, 1, 7, prefix=2),
    "both": TokenGrid(3, 5, 7, prefix=5, suffix=13),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Operands = tuple[Tensor, Tensor, Tensor]


def table(*rows: list[float]) -> Tensor:
    """[B, HEADS], the given rows repeated."""
    return torch.tensor([rows[b % len(rows)] for b in range(B)])


FIRST = torch.tensor([0, 0, 0])
INNER = {
    "temperature": AttentionPlan(temperature=table([0.3, 1, 2.5], [1, 1, 0.7], [1, 1, 1])),
    "temperature of all": AttentionPlan(temperature=table([0.6, 0.6, 0.6])),
    "source": AttentionPlan(source=Source(FIRST, table([0, 0, 0], [1, 0, 1], [1, 1, 1]))),
    "source in part": AttentionPlan(source=Source(FIRST, table([0, 0, 0], [0.4, 0, 1]))),
    "source crossed": AttentionPlan(source=Source(torch.tensor([2, 0, 1]), table([1, 0.5, 1]))),
    "identity": AttentionPlan(map=MapMix(table([1, 0, 0.3]), table([0, 0, 0]))),
    "uniform": AttentionPlan(map=MapMix(table([0, 0, 0]), table([0.25, 1, 0], [0, 0, 0.5]))),
    "mixture": AttentionPlan(map=MapMix(table([0.2, 0.5, 0]), table([0.3, 0.5, 1]))),
    "gate": AttentionPlan(gate=table([0, 1, 1], [0, 1, 0], [1, 0.5, 1])),
}
EVERYTHING = AttentionPlan(
    source=INNER["source in part"].source,
    temperature=INNER["temperature"].temperature,
    map=INNER["mixture"].map,
    gate=INNER["gate"].gate,
)
OUTER = AttentionPlan(
    source=Source(FIRST, table([0, 0, 0], [0, 1, 0])),
    temperature=table([1, 2, 0.5], [1.5, 1, 0.5]),  # times the inner ones exact in float32
    map=MapMix(table([0.1, 0, 0]), table([0, 0.3, 0])),
    gate=table([1, 1, 1], [1, 0.5, 1], [0, 1, 1]),
)
PLANS = {name: replace(UNTOUCHED, video=inner) for name, inner in INNER.items()} | {
    "everything inside": replace(UNTOUCHED, video=EVERYTHING),
    "temperature inside": replace(OUTER, video=INNER["temperature"]),
    "source inside": replace(OUTER, video=INNER["source in part"]),
    "gate inside": replace(OUTER, video=INNER["gate"]),
    "everything": replace(OUTER, video=EVERYTHING),
}
RATES = torch.tensor([[0.3, 0.0, 0.9], [0.5, 0.1, 0.0], [0.0, 0.0, 0.7]])


def operands(grid: TokenGrid, dtype: torch.dtype = torch.float32, seed: int = 0) -> Operands:
    generator = torch.Generator().manual_seed(seed)
    shape = B, HEADS, len(grid), WIDTH
    q, k, v = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    return 4 * q, k, v


def masks(grid: TokenGrid, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Padded text after the video in three ways, in row 0 all of it; and one for every query."""
    lengths = 0, grid.suffix // 2, grid.suffix
    found = {kind: padded(B, grid, lengths, kind) for kind in ("bool", "−inf", "lowest")}
    found = {kind: x if x.dtype == torch.bool else x.to(dtype) for kind, x in found.items()}
    generator = torch.Generator().manual_seed(7)
    keep = torch.rand(B, HEADS, len(grid), len(grid), generator=generator) > 0.4
    keep |= torch.eye(len(grid), dtype=torch.bool)
    found["bool per head and query"] = keep
    found["additive"] = torch.randn(B, 1, 1, len(grid), generator=generator)
    found["bool of all rows"] = keep[:1, :1]
    return found


def compare(
    plan: AttentionPlan,
    grid: TokenGrid,
    x: Operands,
    implementation: str,
    mask: Tensor | None = None,
) -> None:
    plan = plan.placed(grid.video)
    out = attend(*x, plan, mask=mask, implementation=implementation)
    assert_as_good_as_torch(out, Case(*x, wish_of(plan, B, HEADS), mask))


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


THINNED = {
    "alone": AttentionPlan(threshold=Threshold(RATES)),
    "not renormalised": AttentionPlan(threshold=Threshold(RATES, renormalize=False)),
    "with a source": replace(INNER["source"], threshold=Threshold(RATES)),
    "with a source in part": replace(INNER["source in part"], threshold=Threshold(RATES)),
    "with everything": replace(EVERYTHING, threshold=Threshold(RATES, renormalize=False)),
}
BESIDE = replace(OUTER, map=None, gate=None)


def thinned_case(inner: AttentionPlan, outer: AttentionPlan, grid: TokenGrid) -> Case:
    plan = replace(outer, video=inner).placed(grid.video)
    return Case(*operands(grid), wish_of(plan, B, HEADS))


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


def test_blocks_and_a_transfer_in_part_are_refused_in_words() -> None:
    grid = GRIDS["both"]
    thin = Threshold(RATES, blocks=Blocks(8))
    inner = replace(INNER["source in part"], threshold=thin)
    with pytest.raises(ValueError, match="block mode cannot be combined with a transfer in part"):
        attend(*operands(grid), replace(UNTOUCHED, video=inner).placed(grid.video))
