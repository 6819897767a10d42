"""What calls would do without their smallest weights, and at other temperatures, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from vdit_attention.tests.oracle import Case, wish_of
from vdit_attention.tests.thinned import thinned, thinned_video
from vdit_attention.vdit_core.attention import RATES, TEMPERATURES, attend, probe
from vdit_attention.vdit_core.plan import UNTOUCHED, AttentionPlan, MapMix, Source, Threshold

B, HEADS, WIDTH = 2, 3, 16
VIDEO = slice(5, 54)
Mask = Callable[[int], Tensor | None]
FIRST = torch.tensor([0, 0])
PLANS = {
    "untouched": UNTOUCHED,
    "temperature": AttentionPlan(temperature=torch.tensor([[0.5, 1, 2], [1, 3, 0.3]])),
    "source": AttentionPlan(source=Source(FIRST, torch.tensor([[0.0] * 3, [1, 0, 1]]))),
    "gate": AttentionPlan(gate=torch.tensor([[0, 1, 0.5], [1, 0, 1]])),
    "mixture": AttentionPlan(
        map=MapMix(torch.full((B, HEADS), 0.2), torch.tensor([[0.3, 0, 0.8], [0, 0.1, 0]]))
    ),
}
INNER = {
    "temperature": PLANS["temperature"],
    "gate": PLANS["gate"],
    "source in part": AttentionPlan(source=Source(FIRST, torch.tensor([[0.0] * 3, [0.4, 0, 1]]))),
}


def operands(length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, HEADS, length, WIDTH, generator=generator) for _ in range(3))
    return 2 * q, k, v


def asked(what: str, x: tuple[Tensor, Tensor, Tensor], plan: AttentionPlan, **more: object):
    return probe(what, *x, plan, **({"rows": [0, 1], "heads": torch.arange(HEADS)} | more))  # pyright: ignore


def test_the_rates_and_temperatures_are_what_the_help_says() -> None:
    assert RATES == (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
    assert TEMPERATURES[0] == 0.25 and TEMPERATURES[4] == 1 and TEMPERATURES[-1] == 4


def check_errors(found: dict[str, Tensor], case: Case, maps: Callable[[float], Tensor]) -> None:
    """maps: M of the call at a rate, [B, H, Lq, Lk] float64; 0 drops nothing."""
    gate = case.wish.gate.double()[:, :, None, None]
    dense = gate * maps(0.0) @ case.v.double()
    norm = dense.flatten(2).norm(dim=-1)
    torch.testing.assert_close(found["output_norm"], norm, rtol=1e-5, atol=1e-5)
    entries = int((maps(0.0) > 0).sum((-2, -1)).min())
    for n, rate in enumerate(RATES):
        wanted, next_one = (
            (gate * maps(at) @ case.v.double() - dense).flatten(2).norm(dim=-1)
            for at in (rate, rate + 1 / entries)
        )
        # In float32 the entry at the quantile itself may fall on either side of it.
        slack = (next_one - wanted).abs() + 2e-4 * wanted + 2e-5 * norm.max()
        assert bool(((found["output_error"][..., n] - wanted).abs() <= slack).all())


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("length", [1, 2, 65, 127])
def test_errors_are_those_of_weights_dropped_one_by_one(length: int, name: str) -> None:
    x, plan = operands(length), PLANS[name]
    case = Case(*x, wish_of(plan, B, HEADS))
    softmax = Case(*x, wish_of(replace(plan, map=None), B, HEADS)).true_maps()
    i, u = case.wish.identity.double(), case.wish.uniform.double()
    everything = torch.ones(length, length, dtype=torch.bool)

    def maps(rate: float) -> Tensor:
        less = [thinned(one, everything, rate, True) for one in softmax.flatten(0, 1)]
        a = torch.stack(less).view_as(softmax)
        i4, u4 = i[:, :, None, None], u[:, :, None, None]
        return (1 - i4 - u4) * a + i4 * torch.eye(length) + u4 / length

    check_errors(asked("sensitivity", x, plan), case, maps)


@pytest.mark.parametrize("additive", [False, True])
def test_masked_keys_do_not_count(additive: bool) -> None:
    x, keys = operands(37), torch.arange(37)
    mask = torch.stack([keys < 30, keys < 35])[:, None, None]
    given = torch.zeros(B, 1, 1, 37).masked_fill(~mask, -torch.inf) if additive else mask
    case = Case(*x, wish_of(UNTOUCHED, B, HEADS), given)
    whole, allowed = case.true_maps(), mask.expand(B, HEADS, 37, 37)

    def maps(rate: float) -> Tensor:
        parts = zip(whole.flatten(0, 1), allowed.flatten(0, 1), strict=True)
        return torch.stack([thinned(*part, rate, True) for part in parts]).view_as(whole)

    check_errors(asked("sensitivity", x, UNTOUCHED, mask=given), case, maps)


@pytest.mark.parametrize("name", INNER)
def test_where_the_video_has_a_plan_its_own_weights_are_dropped(name: str) -> None:
    x = operands(61)
    plan = replace(UNTOUCHED, video=INNER[name]).placed(VIDEO)
    case = Case(*x, wish_of(plan, B, HEADS))
    inner = case.wish.video
    assert inner is not None

    def maps(rate: float) -> Tensor:
        return thinned_video(case, Threshold(torch.full((B, HEADS), rate)), inner)

    check_errors(asked("sensitivity", x, plan), case, maps)


def test_errors_are_what_attend_then_does() -> None:
    """The same weights are dropped, also of some rows and heads only."""
    x, heads = operands(130), torch.tensor([0, 2])
    found = asked("sensitivity", x, UNTOUCHED, rows=[1], heads=heads)
    dense = attend(*x, UNTOUCHED)[1, heads].double()
    for n, rate in enumerate(RATES):
        rates = torch.full((B, HEADS), rate, dtype=torch.float64)
        plan = AttentionPlan(threshold=Threshold(rates))
        apart = attend(*x, plan)[1, heads].double() - dense
        torch.testing.assert_close(
            found["output_error"][0, :, n], apart.flatten(1).norm(dim=-1), rtol=1e-4, atol=1e-4
        )


def test_a_flat_head_loses_nothing_and_a_rate_loses_more_than_a_lower_one() -> None:
    q, k, v = operands(65)
    q[:, 1] = 0
    error = asked("sensitivity", (q, k, v), UNTOUCHED)["output_error"]
    assert bool((error[:, 1] == 0).all())  # all weights are ties
    assert bool((error[:, ::2].diff(dim=-1) > 0).all())


@pytest.mark.parametrize("name", [*PLANS, "video"])
def test_entropies_are_those_of_scores_divided_anew(name: str) -> None:
    x = operands(65)
    plan = PLANS.get(name) or replace(UNTOUCHED, video=PLANS["temperature"]).placed(VIDEO)
    found = asked("temperatures", x, plan)["temperature_entropy"]
    assert found.shape == (B, HEADS, len(TEMPERATURES))
    for n, value in enumerate(TEMPERATURES):
        own = torch.ones(B, HEADS) if plan.temperature is None else plan.temperature
        wish = replace(wish_of(plan, B, HEADS), temperature=own.double() * value)
        maps = Case(*x, wish).true_maps()
        wanted = torch.special.entr(maps).sum(-1).mean(-1)
        torch.testing.assert_close(found[..., n], wanted, rtol=1e-4, atol=1e-5)


def test_a_cancel_between_two_rates_or_temperatures_comes_through() -> None:
    class Cancelled(Exception):
        pass

    for what, most in (("sensitivity", len(RATES)), ("temperatures", len(TEMPERATURES))):
        calls: list[int] = []

        def poll(calls: list[int] = calls) -> None:
            calls.append(1)
            if len(calls) == 3:
                raise Cancelled

        with pytest.raises(Cancelled):
            asked(what, operands(33), UNTOUCHED, poll=poll)
        assert len(calls) == 3 < most


def test_a_plan_that_drops_weights_and_broken_numbers_are_refused() -> None:
    x = operands(17)
    plan = AttentionPlan(threshold=Threshold(torch.full((B, HEADS), 0.5)))
    for what in ("sensitivity", "temperatures"):
        with pytest.raises(ValueError, match=f"{what}: the plan already drops weights"):
            asked(what, x, plan)
        with pytest.raises(ValueError, match="v: holds NaN"):
            asked(what, (x[0], x[1], x[2] / 0), UNTOUCHED)
