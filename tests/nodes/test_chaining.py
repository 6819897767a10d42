"""Beside other packs: their overrides still do the dense work, their patches move no label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.tests.nodes import tiny
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.host.comfy import OVERRIDE_KEY

CALLS = 2 * 2 * tiny.LAYERS  # steps × (self and cross) × layers, cond and uncond together


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.tiny_wan()


class OtherPack:
    """An attention override that counts its calls and doubles what it returns."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor, self.shapes, self.scales = factor, list[torch.Size](), list[Any]()

    def __call__(self, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        self.shapes.append(args[0].shape)
        self.scales.append(kwargs.get("scale"))
        return function(*args, **kwargs) * self.factor


def with_override(model: ModelPatcher, override: Callable[..., Tensor]) -> ModelPatcher:
    """As KJNodes does it: a clone, and plain assignment to the slot."""
    patched = model.clone()
    patched.model_options["transformer_options"][OVERRIDE_KEY] = override
    return patched


def identity_changed(model: ModelPatcher) -> ModelPatcher:
    return tiny.edited(model, Temperature(0.3), heads="0,2")


@pytest.mark.parametrize("order", ["before", "after"])
def test_anothers_override_does_the_dense_work(order: str, model: ModelPatcher) -> None:
    other = OtherPack()
    if order == "before":
        both = identity_changed(with_override(model, other))
    else:
        both = with_override(identity_changed(model), other)
    expected = tiny.sample(identity_changed(model))
    torch.testing.assert_close(tiny.sample(both), expected, rtol=1e-4, atol=1e-5)
    groups = 2  # heads of each temperature
    assert len(other.shapes) == 2 * tiny.LAYERS * (1 + groups)


@pytest.mark.parametrize("order", ["before", "after"])
def test_anothers_override_changes_what_it_changes_alone(order: str, model: ModelPatcher) -> None:
    halved = with_override(model, OtherPack(0.5))
    expected = tiny.sample(tiny.edited(halved, Temperature(1.0)))
    assert torch.equal(expected, tiny.sample(halved))
    assert not torch.equal(expected, tiny.sample(model))
    one = tiny.edited(halved, Skip(), layers="0", heads="0")
    two = with_override(tiny.edited(model, Skip(), layers="0", heads="0"), OtherPack(0.5))
    assert torch.equal(tiny.sample(one if order == "before" else two), tiny.sample(one))


def test_the_scale_is_not_left_to_an_override_that_may_ignore_it(model: ModelPatcher) -> None:
    other = OtherPack()

    def ignorant(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        kwargs.pop("scale", None)
        return other(function, *args, **kwargs)

    found = tiny.sample(with_override(identity_changed(model), ignorant))
    expected = tiny.sample(identity_changed(model))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found, tiny.sample(model))


def test_untouched_calls_reach_the_override_as_they_were(model: ModelPatcher) -> None:
    other = OtherPack()
    tiny.sample(with_override(tiny.edited(model, Temperature(0.5), layers="1"), other))
    assert len(other.shapes) == CALLS
    assert {shape[0] for shape in other.shapes} == {2}


def test_the_override_of_another_is_in_its_slot_again_afterwards(model: ModelPatcher) -> None:
    other = OtherPack()
    both = with_override(identity_changed(model), other)
    tiny.sample(both)
    assert both.model_options["transformer_options"][OVERRIDE_KEY] is other


def labels(model: ModelPatcher) -> list[tuple[Any, ...]]:
    watched, record = tiny.watched(model)
    tiny.sample(watched)
    return [(m.site, m.step, m.branch, m.evaluation, m.item) for m in record.data.measurements]


def with_block_patch(model: ModelPatcher) -> ModelPatcher:
    """As NAG or SLG: a whole block is run by somebody else's function."""

    def replacement(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        return extra["original_block"](args)

    patched = model.clone()
    patched.set_model_patch_replace(replacement, "dit", "double_block", 1)
    return patched


def with_skipped_block(model: ModelPatcher) -> ModelPatcher:
    patched = model.clone()
    patched.set_model_patch_replace(lambda args, _: {"img": args["img"]}, "dit", "double_block", 1)
    return patched


def with_object_patch(model: ModelPatcher) -> ModelPatcher:
    """Another pack's forward on one attention module, which attends twice."""
    patched = model.clone()
    attention = model.model.diffusion_model.blocks[1].self_attn
    original = attention.forward

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        return (original(*args, **kwargs) + original(*args, **kwargs)) / 2

    patched.add_object_patch("diffusion_model.blocks.1.self_attn.forward", forward)
    return patched


@pytest.mark.parametrize("patch", [with_block_patch, with_object_patch])
def test_patches_of_others_do_not_move_labels(
    patch: Callable[[ModelPatcher], ModelPatcher], model: ModelPatcher
) -> None:
    assert labels(patch(model)) == labels(model)


@pytest.mark.parametrize("patch", [with_block_patch, with_object_patch])
def test_edits_act_beside_patches_of_others(
    patch: Callable[[ModelPatcher], ModelPatcher], model: ModelPatcher
) -> None:
    change = Perturb("identity", 1.0)
    expected = tiny.sample(tiny.edited(model, change, layers="2"))
    found = tiny.sample(tiny.edited(patch(model), change, layers="2"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_layer_that_another_pack_skips_is_an_error_with_its_name(model: ModelPatcher) -> None:
    skipping = tiny.edited(with_skipped_block(model), Temperature(0.5))
    with pytest.raises(RuntimeError) as error:
        tiny.sample(skipping)
    assert str(error.value) == (
        "Edit: nothing happened at blocks.1.self_attn. The sampler made cond, uncond calls, this "
        "node wants branch 'both' (with cfg 1 there is no uncond call). If that is not it, another "
        "node replaces these layers or skips these steps (step caches do); take it out, or choose "
        "other layers or steps"
    )


def test_the_other_layers_of_a_model_with_a_skipped_block_keep_their_names(
    model: ModelPatcher,
) -> None:
    watched, record = tiny.watched(with_skipped_block(model), layers="0,2")
    tiny.sample(watched)
    assert {m.site for m in record.data.measurements} == {
        "blocks.0.self_attn",
        "blocks.2.self_attn",
    }
