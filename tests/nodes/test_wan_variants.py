"""Wan's variants, through ComfyUI's sampler and with their own inputs given: what is theirs alone.

They are rows of the table of families, and what all families have in common is tested with those.
"""

from __future__ import annotations

from dataclasses import replace

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.families import Family, dense
from vdit_attention.tests.nodes.wan_variants import (
    CAUSAL,
    VARIANTS,
    Variant,
    older_than,
    or_skipped,
)
from vdit_attention.tests.oracle import assert_as_good_as_torch
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.pairs import pair_latent, pair_prompts


@pytest.fixture(params=VARIANTS, ids=lambda family: family.name, scope="module")
def family(request: pytest.FixtureRequest) -> Variant:
    return or_skipped(request.param)


@pytest.fixture(scope="module")
def model(family: Variant) -> ModelPatcher:
    return family.make()


@pytest.mark.column("edits equal dense float64")
def test_an_edit_is_as_exact_as_plain_torch_in_every_layer(
    family: Variant, model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = family.spied(tiny.edited(model, Temperature(0.4), heads="0,2"), monkeypatch)
    assert calls
    for seen in calls:
        case = dense(seen)
        case.wish.temperature[:, [0, 2]] = 0.4
        assert_as_good_as_torch(seen.out, case)


@pytest.mark.column("pairs are true")
def test_the_source_of_a_pair_is_the_video_of_its_prompt_alone(
    family: Variant, model: ModelPatcher
) -> None:
    if family.name == "InfiniteTalk":
        pytest.skip("core's audio attention takes no batch of two")
    if family.name == "WanDancer" and older_than("0.30"):
        pytest.skip("core's frame rate takes no batch of two before 0.30")
    source, target = family.prompt(5), family.prompt(6)
    pair = {"positive": pair_prompts(source, target), "latent": pair_latent(family.latent())}
    both = family.sample(tiny.edited(model, PairTransfer(1.0), layers="1"), **pair)
    alone, other = (family.sample(model, positive=prompt) for prompt in (source, target))
    torch.testing.assert_close(both[:1], alone, rtol=1e-3, atol=1e-3)
    assert (both[1:] - other).abs().max() > 20 * (both[:1] - alone).abs().max()


def test_what_its_nodes_give_reaches_the_model(family: Variant, model: ModelPatcher) -> None:
    """Or these tests would say nothing of it."""
    if family.given is dict:
        pytest.skip("it is given nothing but text")
    bare = replace(family, given=dict)
    assert not torch.equal(family.sample(model), bare.sample(model))


def test_blocks_that_are_no_layers_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """VACE's own blocks attend to all tokens too."""
    [vace] = [family for family in VARIANTS if family.name == "Wan VACE"]
    edited = tiny.edited(vace.make(), Temperature(0.4))
    calls = Family.spied(vace, edited, monkeypatch)
    for index, seen in enumerate(calls):
        case = dense(seen)
        if vace.order[index % 9] is not None:
            case.wish.temperature[:] = 0.4
        assert_as_good_as_torch(seen.out, case)


def test_a_sampler_that_hides_its_attention_is_refused_before_it_starts() -> None:
    """It calls the model frame by frame, without the options that carry what our nodes ask."""
    watched, _ = tiny.watched(CAUSAL.make())
    evaluations: list[int] = []
    watched.model.diffusion_model.register_forward_pre_hook(lambda *_: evaluations.append(1))
    latent = CAUSAL.latent()["samples"]
    sampler, sigmas = comfy.samplers.ksampler("ar_video"), torch.tensor([1.0, 0.5, 0.0])
    with pytest.raises(
        ValueError, match=r"Capture: the sampler ar_video .* choose another sampler"
    ):
        comfy.sample.sample_custom(
            watched, latent, 1.0, sampler, sigmas, CAUSAL.prompt(1), CAUSAL.prompt(2), latent
        )
    assert not evaluations
