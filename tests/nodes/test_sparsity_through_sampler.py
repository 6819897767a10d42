"""Sparsity through ComfyUI's sampler: what it drops, what it reports, what it remembers."""

from __future__ import annotations

from collections.abc import Callable

import comfy.ldm.modules.attention as core
import comfy.ldm.wan.model
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.oracle import Case, no_wish
from vdit_attention.vdit_core.edits.sparsity import Sparsify
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.host import comfy as host
from vdit_attention.vdit_core.program import Asker, Window

RATES = (0.5, 0.0, 0.8)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the nodes were told."""
    lines: list[str] = []

    def tell(asker: Asker, text: str) -> None:
        lines.append(f"{asker.name}: {text}")

    monkeypatch.setattr(host, "tell", tell)
    return lines


def self_calls(model: ModelPatcher, monkeypatch: pytest.MonkeyPatch, **how: object):
    """The self-attention calls of a sampling, in order."""
    spy = tiny.Spy(core.attention_pytorch)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", spy)
    tiny.sample(model, positive=tiny.prompt(1, batch=2), latent=tiny.empty_latent(2), **how)  # pyright: ignore
    return [seen for seen in spy.seen if not seen.cross]


def dense(seen: tiny.Seen) -> Tensor:
    return Case(seen.q, seen.k, seen.v, no_wish(seen.q.shape[0], tiny.HEADS)).true_maps()


def quantiles(maps: Tensor, rate: float) -> Tensor:
    """The weight at the quantile of each row and head, [B, H, 1, 1]."""
    ordered = maps.flatten(2).sort(-1).values
    return ordered[..., int(rate * ordered.shape[-1])][..., None, None]


def thinned(maps: Tensor, thresholds: Tensor, renormalize: bool) -> Tensor:
    kept = maps * (maps >= thresholds)
    total = kept.sum(-1, keepdim=True)
    return kept / total.where(total > 0, 1) if renormalize else kept


@pytest.mark.parametrize("renormalize", [True, False])
def test_exact_drops_what_lies_below_the_quantile_of_this_map(
    renormalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.edited(tiny.tiny_wan(), Sparsify(RATES, "exact", renormalize))
    calls = self_calls(model, monkeypatch)
    assert len(calls) == 2 * tiny.LAYERS
    for seen in calls:
        rate = RATES[seen.layer]
        if not rate:
            assert torch.equal(seen.out, seen.plain(core.attention_pytorch))
            continue
        maps = dense(seen)
        wanted = thinned(maps, quantiles(maps, rate), renormalize) @ seen.v.double()
        torch.testing.assert_close(seen.out.double(), wanted, rtol=1e-4, atol=1e-5)


def test_two_run_takes_the_thresholds_of_a_dense_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.edited(tiny.tiny_wan(), Sparsify((0.5, 0.6, 0.8), "exact two-run"))
    calls = self_calls(model, monkeypatch)
    assert len(calls) == 2 * 2 * tiny.LAYERS
    for start in range(0, len(calls), 2 * tiny.LAYERS):
        first = calls[start : start + tiny.LAYERS]
        second = calls[start + tiny.LAYERS : start + 2 * tiny.LAYERS]
        for rehearsal, real in zip(first, second, strict=True):
            assert torch.equal(rehearsal.out, rehearsal.plain(core.attention_pytorch))
            thresholds = quantiles(dense(rehearsal), (0.5, 0.6, 0.8)[real.layer])
            wanted = thinned(dense(real), thresholds, True) @ real.v.double()
            torch.testing.assert_close(real.out.double(), wanted, rtol=1e-4, atol=1e-5)
        assert not torch.equal(first[1].q, second[1].q)  # the first layer's mask reached it


def test_two_run_is_exact_where_only_one_layer_is_thinned() -> None:
    model = tiny.tiny_wan()
    once = tiny.sample(tiny.edited(model, Sparsify((0.0, 0.6, 0.0), "exact")))
    twice = tiny.sample(tiny.edited(model, Sparsify((0.0, 0.6, 0.0), "exact two-run")))
    torch.testing.assert_close(once, twice, rtol=1e-5, atol=1e-5)


def test_other_edits_act_in_the_dense_evaluation_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.edited(tiny.tiny_wan(), Temperature(0.5))
    model = tiny.edited(model, Sparsify((0.6,) * 3, "exact two-run"))
    calls = self_calls(model, monkeypatch, steps=1)
    case = [no_wish(4, tiny.HEADS) for _ in calls]
    for seen, wish in zip(calls[: tiny.LAYERS], case, strict=False):
        wish.temperature.fill_(0.5)
        wanted = Case(seen.q, seen.k, seen.v, wish).true_output()
        torch.testing.assert_close(seen.out.double(), wanted, rtol=1e-4, atol=1e-5)


def test_a_capture_sees_the_thinned_map_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.edited(tiny.tiny_wan(), Sparsify((0.6,) * 3, "exact two-run"))
    plain, _ = tiny.watched(tiny.tiny_wan())
    watched, record = tiny.watched(model)
    tiny.sample(watched, steps=2)
    found = record.data.measurements
    assert {m.evaluation for m in found} == {0}
    assert len(found) == 2 * tiny.LAYERS * 2
    del plain
    assert all(bool((m.measures.entropy >= 0).all()) for m in found)


@pytest.mark.parametrize("reuse", [1, 2, 5])
def test_blocks_are_chosen_anew_every_few_steps(
    reuse: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Sparsify((0.5,) * 3, "block", block_size=16, reuse=reuse)
    model = tiny.edited(tiny.tiny_wan(), change)
    chosen: list[int] = []
    from vdit_attention.vdit_core.attention import thin

    original = thin.block_masses

    def counted(*arguments: object) -> Tensor:
        chosen.append(1)
        return original(*arguments)  # pyright: ignore

    monkeypatch.setattr(thin, "block_masses", counted)
    calls = self_calls(model, monkeypatch, steps=5)
    steps_with_choice = -(-5 // reuse)
    assert len(chosen) == steps_with_choice * tiny.LAYERS * 4  # rows of cond and uncond
    for seen in calls:
        assert not torch.equal(seen.out, seen.plain(core.attention_pytorch))


def test_the_report_says_asked_dropped_and_lost(told: list[str]) -> None:
    tiny.sample(tiny.edited(tiny.tiny_wan(), Sparsify(RATES)))
    lines = told[0].splitlines()
    assert lines[0] == "Edit: changed 6 calls of 3 layers"
    assert lines[1] == "exact sparsity shows what can be dropped; it saves no time"
    assert lines[2].startswith("layer 0: asked 50.0%, dropped 50.0%, mass lost ")
    assert lines[3].startswith("layer 2: asked 80.0%, dropped 80.0%, mass lost ")
    assert len(lines) == 4


NEUTRAL: dict[str, Callable[[ModelPatcher], ModelPatcher]] = {
    "rate 0": lambda m: tiny.edited(m, Sparsify((0.0,) * 3)),
    "two-run at rate 0": lambda m: tiny.edited(m, Sparsify((0.0,) * 3, "exact two-run")),
    "no layer": lambda m: tiny.edited(m, Sparsify(RATES), layers="none"),
    "no head": lambda m: tiny.edited(m, Sparsify(RATES, "block"), heads="none"),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_dropping_nothing_changes_nothing(name: str) -> None:
    model = tiny.tiny_wan()
    assert torch.equal(tiny.sample(NEUTRAL[name](model)), tiny.sample(model))


def test_two_modes_in_one_layer_are_refused_before_sampling() -> None:
    model = tiny.edited(tiny.tiny_wan(), Sparsify((0.5,) * 3), "0-1", "0")
    both = tiny.edited(model, Sparsify((0.5,) * 3, "block", block_size=16), "1-2", "1")
    with pytest.raises(ValueError, match=r"layers 1 already have another mode \(exact\)"):
        tiny.sample(both)
    apart = tiny.edited(model, Sparsify((0.5,) * 3, "block", block_size=16), "2")
    assert bool(torch.isfinite(tiny.sample(apart)).all())


def test_blocks_and_a_transfer_in_part_are_refused_before_sampling() -> None:
    blocks = Sparsify((0.5,) * 3, "block", block_size=16)
    pair = {"positive": tiny.prompt(1, batch=2), "latent": tiny.empty_latent(2)}
    half = tiny.edited(tiny.tiny_wan(), PairTransfer(0.5), "0-1")
    with pytest.raises(ValueError, match=r"a transfer in part \(Edit, layers 1\)"):
        tiny.sample(tiny.edited(half, blocks, "1-2"), **pair)  # pyright: ignore
    apart = tiny.sample(tiny.edited(half, blocks, "2"), **pair)  # pyright: ignore
    assert bool(torch.isfinite(apart).all())


@pytest.mark.parametrize("mode", ["exact", "exact two-run", "block"])
def test_a_second_queue_equals_the_first(mode: str) -> None:
    model = tiny.edited(tiny.tiny_wan(), Sparsify((0.5,) * 3, mode, block_size=16, reuse=2))
    assert torch.equal(tiny.sample(model, steps=3), tiny.sample(model, steps=3))


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_sde", "res_multistep"])
@pytest.mark.parametrize("mode", ["exact two-run", "block"])
def test_samplers_that_evaluate_twice(mode: str, sampler: str) -> None:
    change = Sparsify((0.5,) * 3, mode, block_size=16, reuse=2)
    model = tiny.edited(tiny.tiny_wan(), change, window=Window(0.0, 0.6), branch="cond")
    assert bool(torch.isfinite(tiny.sample(model, steps=4, sampler=sampler)).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sparsify((1.0,)), r"sparsity: got 1.0, allowed is 0 \(dense\) to below 1"),
        (lambda: Sparsify((0.5,), "fast"), "mode: got 'fast', allowed are exact, exact two-run"),
        (lambda: Sparsify((0.5,), "block", False), "block mode always renormalises"),
        (lambda: Sparsify((0.5,), "block", block_size=0), "must be 1 or more"),
    ],
)
def test_bad_settings_are_refused_in_words(make: Callable[[], Sparsify], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
