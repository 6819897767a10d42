"""Thresholds and blocks: `attend` against weights dropped one by one from dense float64 maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from vdit_attention.tests.oracle import Case, no_wish, wish_of
from vdit_attention.tests.thinned import in_blocks, thinned
from vdit_attention.vdit_core.attention import Thinning, attend, measure
from vdit_attention.vdit_core.attention.blocks import (
    block_masses,
    choose_blocks,
    flex_mask,
    kept_mass,
)
from vdit_attention.vdit_core.attention.heads import HeadGroup
from vdit_attention.vdit_core.attention.thin import quantiles
from vdit_attention.vdit_core.measures.spectrum import Missed, Selection, SortedRows, quantile_place
from vdit_attention.vdit_core.plan import AttentionPlan, Blocks, Source, Threshold

HEADS = 3
RATES = torch.tensor([[0.3, 0.0, 0.9], [0.5, 0.1, 0.0]])


def operands(
    length: int, *, scale: float = 2.0, width: int = 16, seed: int = 1, batch: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = batch, HEADS, length, width
    q, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    return scale * q, k, v


def truth(case: Case, rates: Tensor, renormalize: bool) -> Tensor:
    maps = case.true_maps().nan_to_num(0)
    shape = maps.shape
    allowed = torch.ones(shape, dtype=torch.bool) if case.mask is None else case.mask.expand(shape)
    rows: list[Tensor] = []
    for b in range(shape[0]):
        heads = [
            thinned(maps[b, h], allowed[b, h], float(rates[b, h]), renormalize)
            for h in range(shape[1])
        ]
        rows.append(torch.stack(heads) @ case.v[b].double())
    return torch.stack(rows)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("implementation", ["dense", "streaming", "reference"])
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("length", [1, 2, 63, 65, 127, 509])
def test_what_lies_below_the_quantile_is_dropped(
    length: int, renormalize: bool, implementation: str
) -> None:
    q, k, v = operands(length)
    plan = AttentionPlan(threshold=Threshold(RATES, renormalize))
    if implementation == "reference":
        found = attend(q.double(), k.double(), v.double(), plan, implementation=implementation)
    else:
        found = attend(q, k, v, plan, implementation=implementation)
    close(found, truth(Case(q, k, v, no_wish(2, HEADS)), RATES, renormalize))


@pytest.mark.parametrize("scale", [0.0, 30.0])
def test_flat_and_peaked_rows(scale: float) -> None:
    q, k, v = operands(65, scale=scale)
    found = attend(q, k, v, AttentionPlan(threshold=Threshold(RATES)))
    wanted = truth(Case(q, k, v, no_wish(2, HEADS)), RATES, True)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-3 if scale else 1e-6)


def test_a_flat_row_can_lose_everything() -> None:
    """The quantile is over the head's whole matrix: a row far below it keeps nothing."""
    q, k, v = operands(40, batch=1)
    q[:, :, :20] *= 0.0
    q[:, :, 20:] *= 10
    plan = AttentionPlan(threshold=Threshold(torch.full((1, HEADS), 0.99)))
    found = attend(q, k, v, plan)
    assert bool((found[:, :, :20] == 0).all())
    assert bool((found[:, :, 20:].abs().sum(-1) > 0).any(-1).all())


def test_padded_text_does_not_count() -> None:
    q, k, v = operands(37)
    keys = torch.arange(37)
    mask = torch.stack([keys < 30, keys < 35])[:, None, None]
    rates = torch.full((2, HEADS), 0.6)
    reports: list[Thinning] = []
    plan = AttentionPlan(threshold=Threshold(rates))
    found = attend(q, k, v, plan, mask=mask, report=reports.append)
    close(found, truth(Case(q, k, v, no_wish(2, HEADS), mask), rates, True))
    entries = torch.tensor([37 * 30, 37 * 35])[:, None]
    places = torch.tensor([[quantile_place(0.6, int(n))] for n in entries])
    torch.testing.assert_close(
        reports[0].realised_rate, (places / entries).double().expand(2, HEADS)
    )


def test_what_was_dropped_is_reported_as_measured() -> None:
    q, k, v = operands(127)
    reports: list[Thinning] = []
    plan = AttentionPlan(threshold=Threshold(RATES, renormalize=False))
    out = attend(q, k, v, plan, report=reports.append)
    ones = attend(q, k, torch.ones_like(v), plan)
    torch.testing.assert_close(
        reports[0].mass_lost, 1 - ones[..., 0].double().mean(-1), rtol=1e-4, atol=1e-5
    )
    found = measure(q, k, wants=["threshold", "mass_lost"], rate=0.3, rows=[0])
    torch.testing.assert_close(
        reports[0].weights[0, 0], found["threshold"][0, 0], rtol=1e-6, atol=0
    )
    torch.testing.assert_close(
        reports[0].mass_lost[0, 0], found["mass_lost"][0, 0], rtol=1e-4, atol=0
    )
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("scale", [0.3, 2.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_just_what_the_quantile_counted_is_dropped(seed: int, scale: float) -> None:
    """Near ties, of which a quarter of a million entries have some, are told apart alike."""
    q, k, v = operands(509, scale=scale, seed=seed)
    for rate in (0.3, 0.75, 0.95):
        reports: list[Thinning] = []
        plan = AttentionPlan(threshold=Threshold(torch.full((2, HEADS), rate)))
        attend(q, k, v, plan, report=reports.append)
        counted = measure(q, k, wants=["realised_rate"], rate=rate)["realised_rate"]
        assert torch.equal((reports[0].realised_rate * 509**2).round(), (counted * 509**2).round())


def test_thresholds_of_another_run_are_used_as_given() -> None:
    q, k, v = operands(65)
    maps = Case(q, k, v, no_wish(2, HEADS)).true_maps()
    given_weights = torch.full((2, HEADS), 0.02, dtype=torch.float64)
    for renormalize in (True, False):
        plan = AttentionPlan(threshold=Threshold(RATES, renormalize, weights=given_weights))
        kept = torch.where((maps < 0.02) & (RATES > 0)[:, :, None, None], 0.0, maps)
        total = kept.sum(-1, keepdim=True) if renormalize else torch.ones(())
        wanted = kept / total.where(total > 0, 1) @ v.double()
        for implementation in ("dense", "streaming"):
            close(attend(q, k, v, plan, implementation=implementation), wanted)


def test_key_heads_that_serve_several_query_heads() -> None:
    q, k, v = operands(40)
    whole_k, whole_v = (x[:, :1].expand_as(q).contiguous() for x in (k, v))
    plan = AttentionPlan(threshold=Threshold(RATES))
    found = attend(q, k[:, :1], v[:, :1], plan)
    assert torch.equal(found, attend(q, whole_k, whole_v, plan))


def test_heads_that_stay_dense_are_bit_identical() -> None:
    q, k, v = operands(65)
    found = attend(q, k, v, AttentionPlan(threshold=Threshold(RATES)))
    plain = attend(q, k, v, AttentionPlan())
    assert torch.equal(found[RATES == 0], plain[RATES == 0])


def test_other_edits_act_beside_a_threshold() -> None:
    q, k, v = operands(65)
    plan = AttentionPlan(
        source=Source(torch.tensor([0, 0]), torch.tensor([[0.0, 0, 0], [1, 0, 1]])),
        temperature=torch.tensor([[0.5, 1, 2], [1, 1.5, 0.7]]),
        gate=torch.tensor([[1.0, 0, 1], [1, 1, 0]]),
    )
    wanted = truth(Case(q, k, v, wish_of(plan, 2, HEADS)), RATES, True)
    assert plan.gate is not None
    wanted = wanted * plan.gate[:, :, None, None]
    for implementation in ("dense", "streaming"):
        both = replace(plan, threshold=Threshold(RATES))
        close(attend(q, k, v, both, implementation=implementation), wanted)


@settings(max_examples=60, deadline=None, derandomize=True)
@example(6, 0.984375, 1, 0, 25.0, False)  # largest weights that are ties at 1
@given(
    st.integers(1, 120),
    st.floats(0.001, 0.999),
    st.integers(1, 40),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1.0, 1e-3, 25.0]),
    st.booleans(),
)
def test_the_quantile_is_exact_however_it_is_cut(
    length: int, rate: float, tile: int, seed: int, scale: float, rounded: bool
) -> None:
    """Against sorting all weights; rounded scores have many ties."""
    q, k, _ = operands(length, scale=scale, seed=seed, batch=1)
    if rounded:
        q, k = q.round(), k.round()
    group = HeadGroup(q, k, AttentionPlan(), 0, torch.arange(HEADS))
    rates = torch.full((HEADS, 1), rate, dtype=torch.float64)
    found = [one for (one,) in quantiles(group.own, rates, tile)]
    (piece,) = list(group.own.tiles(length))
    logs = piece.logs - piece.log_total[..., None]
    for head, quantile in enumerate(found):
        ordered = logs[head].flatten().sort().values
        place = quantile_place(rate, len(ordered))
        value, slack = float(ordered[place]), 1e-4 * (1 + abs(float(ordered[place])))
        assert abs(quantile.log_weight - value) <= slack
        assert int((ordered < value - slack).sum()) <= quantile.below
        assert quantile.below <= int((ordered < value + slack).sum())


def test_few_rows_are_kept_of_a_long_map() -> None:
    """One pass holds little more than the square root of what there is."""
    q, k, _ = operands(2048, batch=1)
    group = HeadGroup(q, k, AttentionPlan(), 0, torch.tensor([0]))
    state, most = Selection(0.7, 2048), 0
    for tile in group.own.tiles(32):
        state.add(SortedRows.sort(tile.logs[0], tile.log_total[0], tile.allowed[0], tile.work[0]))
        most = max(most, state.held)
    assert most < 0.06 * 2048**2
    assert state.result().entries == 2048**2


def test_rows_in_an_unfair_order_are_noticed_not_believed() -> None:
    state = Selection(0.5, 4096, margin=1.0)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(Missed):
        for start in range(0, 4096, 64):
            logs = torch.randn(64, 64, generator=generator) + start  # ever larger
            none = torch.zeros(64)
            state.add(SortedRows.sort(logs, none, torch.full((64,), 64), torch.empty_like(logs)))
        state.result()


def test_counts_stay_right_past_two_to_the_31() -> None:
    """75,600 × 75,600 entries: the arithmetic, not the memory."""
    entries = 75_600**2
    assert abs(quantile_place(0.7, entries) - 7 * entries // 10) <= 1
    assert quantile_place(0.999999, entries) == int(0.999999 * entries) > 2**32
    state = Selection(0.5, 2 * 75_600)
    zeros = torch.zeros(1, 64)
    rows = SortedRows.sort(zeros, torch.zeros(1), torch.tensor([64]), torch.empty_like(zeros))
    state.add(rows)
    state.entries = entries
    state.below = entries // 2 - 3
    assert state.result().below == entries // 2 - 3


@pytest.mark.parametrize("implementation", ["dense", "streaming", "reference"])
@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("length", [1, 63, 65, 127, 509])
def test_blocks_that_are_left_out_get_no_weight(
    length: int, size: int, implementation: str
) -> None:
    q, k, v = operands(length)
    count = -(-length // size)
    generator = torch.Generator().manual_seed(5)
    kept = torch.rand(2, HEADS, count, count, generator=generator) > 0.6
    kept[..., 0] = True
    blocks = Blocks(size, kept=kept)
    plan = AttentionPlan(threshold=Threshold(torch.full((2, HEADS), 0.5), blocks=blocks))
    maps = Case(q, k, v, no_wish(2, HEADS)).true_maps()
    parts = (q, k, v) if implementation != "reference" else (q.double(), k.double(), v.double())
    found = attend(*parts, plan, implementation=implementation)
    close(found, in_blocks(maps, kept, size) @ v.double())


def test_flex_attention_is_given_the_same_blocks() -> None:
    """What it makes of them is checked on CUDA; uncompiled it looks at no blocks."""
    kept = torch.rand(2, HEADS, 4, 5, generator=torch.Generator().manual_seed(5)) > 0.5
    assert torch.equal(flex_mask(kept, 64, (200, 300)).to_dense().bool(), kept)


def test_blocks_keep_to_the_models_mask() -> None:
    q, k, v = operands(65)
    mask = (torch.arange(65) < 50)[None, None, None]
    plan = AttentionPlan(threshold=Threshold(torch.full((2, HEADS), 0.5), blocks=Blocks(16)))
    reports: list[Thinning] = []
    found = attend(q, k, v, plan, mask=mask, report=reports.append)
    kept = reports[0].kept
    assert kept is not None
    maps = Case(q, k, v, no_wish(2, HEADS), mask).true_maps()
    close(found, in_blocks(maps, kept, 16) @ v.double())


def test_the_heaviest_blocks_are_kept() -> None:
    q, k, v = operands(127)
    reports: list[Thinning] = []
    plan = AttentionPlan(threshold=Threshold(RATES, blocks=Blocks(16)))
    attend(q, k, v, plan, report=reports.append)
    kept = reports[0].kept
    assert kept is not None
    maps = Case(q, k, v, no_wish(2, HEADS)).true_maps()
    padded = torch.nn.functional.pad(maps, (0, 1, 0, 1))
    sums = padded.unflatten(-1, (8, 16)).unflatten(-3, (8, 16)).sum((-1, -3))
    for b, h in ((0, 0), (0, 2), (1, 0), (1, 1)):
        mass, chosen = sums[b, h], kept[b, h]
        assert bool(chosen.any(-1).all())  # every run of queries keeps one
        forced = torch.zeros_like(chosen).scatter_(-1, mass.argmax(-1, keepdim=True), True)
        assert (mass[chosen & ~forced]).min() >= mass[~chosen].max()
        rate = 1 - chosen.double().mean()
        assert RATES[b, h] - 8 / 64 <= rate <= RATES[b, h]
        torch.testing.assert_close(
            reports[0].mass_lost[b, h], mass[~chosen].sum() / 127, rtol=1e-4, atol=1e-5
        )
    assert bool(kept[0, 1].all())


def test_block_masses_are_exact() -> None:
    q, k, _ = operands(50, batch=1)
    group = HeadGroup(q, k, AttentionPlan(), 0, torch.arange(HEADS))
    masses = block_masses(group.own, 16)
    maps = Case(q, k, k, no_wish(1, HEADS)).true_maps()[0]
    for i, j in ((0, 0), (1, 3), (3, 3), (3, 0)):
        block = maps[:, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16].sum((-1, -2))
        torch.testing.assert_close(masses[:, i, j], block, rtol=1e-5, atol=1e-9)
    everything = choose_blocks(masses, torch.zeros(HEADS))
    assert bool(everything.all())
    torch.testing.assert_close(kept_mass(masses, everything), torch.ones(HEADS).double())


def test_a_map_is_measured_with_its_blocks() -> None:
    q, k, v = operands(63)
    plan = AttentionPlan(threshold=Threshold(torch.full((2, HEADS), 0.5), blocks=Blocks(16)))
    reports: list[Thinning] = []
    attend(q, k, v, plan, report=reports.append)
    kept = reports[0].kept
    assert kept is not None
    maps = in_blocks(Case(q, k, v, no_wish(2, HEADS)).true_maps(), kept, 16)
    found = measure(q, k, wants=["column_sums"], plan=plan)["column_sums"]
    torch.testing.assert_close(found, maps.sum(-2), rtol=1e-4, atol=1e-5)


def test_blocks_and_a_transfer_in_part_are_refused_in_words() -> None:
    q, k, v = operands(16)
    half = Source(torch.tensor([0, 0]), torch.tensor([[0.0] * 3, [0.5] * 3]))
    thin = Threshold(torch.full((2, HEADS), 0.5), blocks=Blocks(8))
    with pytest.raises(ValueError, match="block mode cannot be combined with a transfer in part"):
        attend(q, k, v, AttentionPlan(source=half, threshold=thin))


def test_nan_is_named() -> None:
    q, k, v = operands(8)
    v[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"^v: holds NaN"):
        attend(q, k, v, AttentionPlan(threshold=Threshold(RATES)))
