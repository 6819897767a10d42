"""Frozen maps, through ComfyUI's sampler: later steps use Q and K of the pivot step."""

from __future__ import annotations

from typing import Any

import comfy.ldm.wan.model
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.tests.nodes import tiny
from vdit_attention.vdit_core.edits.freeze import Freeze
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.pairs import pair_latent, pair_prompts

Calls = dict[tuple[int, float], tiny.Seen]


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.tiny_wan()


def calls(model: ModelPatcher, monkeypatch: pytest.MonkeyPatch, **how: Any) -> Calls:
    """The self-attention of a sampling as its modules saw it, by layer and noise level."""
    spy = tiny.Spy(comfy.ldm.wan.model.optimized_attention)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", spy)
    tiny.sample(model, **how)
    return {(seen.layer, seen.sigma): seen for seen in spy.seen if not seen.cross}


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.double() for x in (q, k, v))
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("pivot", [0, 2])
def test_later_steps_use_the_map_of_the_pivot(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch, pivot: int, strength: float
) -> None:
    frozen = tiny.edited(model, Freeze(pivot, strength), layers="1", heads="0,2")
    seen = calls(frozen, monkeypatch, steps=4)
    levels = sorted({sigma for _, sigma in seen}, reverse=True)
    assert len(levels) == 4
    for layer in range(tiny.LAYERS):
        at_pivot = seen[layer, levels[pivot]]
        for step, level in enumerate(levels):
            call = seen[layer, level]
            expected = attention(call.q, call.k, call.v)
            if layer == 1 and step > pivot:
                ours = attention(at_pivot.q, at_pivot.k, call.v)
                mixed = torch.lerp(expected, ours, strength)
                expected[:, [0, 2]] = mixed[:, [0, 2]]
            torch.testing.assert_close(call.out.double(), expected, rtol=1e-4, atol=1e-5)


def test_strength_zero_changes_no_bit(model: ModelPatcher) -> None:
    plain = tiny.sample(model, steps=3)
    assert torch.equal(tiny.sample(tiny.edited(model, Freeze(0, 0.0)), steps=3), plain)
    assert not torch.equal(tiny.sample(tiny.edited(model, Freeze(0)), steps=3), plain)


def test_a_second_sampling_freezes_its_own_map(model: ModelPatcher) -> None:
    frozen = tiny.edited(model, Freeze(1), branch="cond")
    first = tiny.sample(frozen, steps=4, seed=1)
    tiny.sample(frozen, steps=4, seed=2)
    assert torch.equal(tiny.sample(frozen, steps=4, seed=1), first)


def test_a_pivot_after_which_nothing_comes_is_refused(model: ModelPatcher) -> None:
    with pytest.raises(ValueError, match="pivot_step is 2, but this sampler has 3 steps"):
        tiny.sample(tiny.edited(model, Freeze(2)), steps=3)


def test_a_transfer_in_the_same_layer_is_refused(model: ModelPatcher) -> None:
    both = tiny.edited(tiny.edited(model, PairTransfer(1.0), layers="1"), Freeze(0), layers="1-2")
    pair = {
        "positive": pair_prompts(tiny.prompt(1), tiny.prompt(3)),
        "latent": pair_latent(tiny.empty_latent()),
    }
    with pytest.raises(ValueError, match="layers 1 already take their maps from elsewhere"):
        tiny.sample(both, **pair)
