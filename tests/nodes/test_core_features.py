"""Beside ComfyUI's own features: Torch Compile, step caches, several devices, attention patches."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from time import sleep
from typing import Any

import comfy.ldm.modules.attention as core
import comfy.ldm.wan.model
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.families import HUNYUAN_VIDEO
from vdit_attention.tests.nodes.test_labels import assert_labels, planted
from vdit_attention.vdit_core.edits.flatten import Flatten
from vdit_attention.vdit_core.edits.guide import Guide
from vdit_attention.vdit_core.edits.sparsity import Sparsify
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.pairs import pair_latent, pair_prompts
from vdit_attention.vdit_core.program import Window

WHOLE, BLOCKS = ["diffusion_model"], [f"diffusion_model.blocks.{n}" for n in range(tiny.LAYERS)]


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return planted()


@pytest.fixture
def graphs() -> Iterator[list[Any]]:
    """What torch compiled, one entry for each graph; afterwards it is forgotten."""
    import torch._dynamo

    compiled: list[Any] = []
    yield compiled
    torch._dynamo.reset()


def compiled(model: ModelPatcher, keys: list[str], graphs: list[Any]) -> ModelPatcher:
    """As Torch Compile does it, with a backend that changes nothing."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def backend(graph: Any, _: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    patched = model.clone()
    set_torch_compile_wrapper(patched, backend, keys=keys)
    return patched


@pytest.mark.parametrize("keys", [WHOLE, BLOCKS], ids=["whole", "blocks"])
@pytest.mark.parametrize("first", ["with", "without"])
def test_torch_compile_is_set_aside_for_our_sampling_only(
    keys: list[str],
    first: str,
    model: ModelPatcher,
    graphs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A compiled model does not notice our hooks, or keeps them, whoever comes first."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", core.attention_pytorch)
    fast = compiled(model, keys, graphs)
    if first == "without":
        tiny.sample(fast, steps=1)
        assert graphs
    graphs.clear()
    changed, record = tiny.watched(tiny.edited(fast, Temperature(0.5)))
    plain, _ = tiny.watched(tiny.edited(model, Temperature(0.5)))
    assert torch.equal(tiny.sample(changed, steps=1), tiny.sample(plain, steps=1))
    assert graphs == []
    assert "; Torch Compile is set aside: a compiled model cannot be watched or" in caplog.text
    assert len(record.data.measurements) == 2 * tiny.LAYERS
    again = tiny.sample(fast, steps=1)
    assert bool(graphs) == (first == "with")
    assert torch.equal(again, tiny.sample(model, steps=1))


@pytest.mark.parametrize("how", ["object patch", "in place"])
def test_a_model_that_another_node_compiled_is_refused(how: str) -> None:
    model = tiny.tiny_wan()
    blocks = model.model.diffusion_model.blocks
    block: Any = torch.compile(blocks[1], backend="eager")
    if how == "in place":
        blocks[1] = block
    else:
        model.add_object_patch("diffusion_model.blocks.1", block)
    name = "blocks.1" if how == "in place" else "diffusion_model.blocks.1"
    with pytest.raises(ValueError) as error:
        tiny.sample(tiny.edited(model, Temperature(0.5)))
    assert str(error.value) == (
        f"Edit: another node has compiled {name}, and a compiled model does not let attention be "
        "watched or changed; take that node out"
    )


def easy(model: ModelPatcher, threshold: float = 3.0) -> ModelPatcher:
    from comfy_extras.nodes_easycache import EasyCacheNode

    return EasyCacheNode.execute(model, threshold, 0.0, 1.0, False).args[0]


def lazy(model: ModelPatcher, threshold: float = 3.0) -> ModelPatcher:
    from comfy_extras.nodes_easycache import LazyCacheNode

    return LazyCacheNode.execute(model, threshold, 0.0, 1.0, False).args[0]


CACHES = pytest.mark.parametrize("cache", [easy, lazy], ids=["EasyCache", "LazyCache"])


@CACHES
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_step_cache_leaves_the_labels_of_the_other_steps_right(
    cache: Any,
    order: str,
    model: ModelPatcher,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    spy = tiny.Spy(core.attention_pytorch)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", spy)
    if order == "before":
        watched, record = tiny.watched(cache(model))
    else:
        watched, record = tiny.watched(model)
        watched = cache(watched)
    tiny.sample(watched, steps=6)
    assert_labels(record.data, [seen for seen in spy.seen if not seen.cross])
    ran = {m.step for m in record.data.measurements}
    assert 0 < len(ran) < 6
    assert (
        f"measured {len(ran) * tiny.LAYERS} calls of 3 layers; the model did not run at step "
        in (caplog.text)
    )


@CACHES
def test_nodes_that_want_skipped_steps_only_say_which(cache: Any, model: ModelPatcher) -> None:
    _, everything = both = tiny.watched(cache(model))
    tiny.sample(both[0], steps=6)
    ran = {m.step for m in everything.data.measurements}
    skipped = min({*range(6)} - ran)
    percent = skipped / 6
    window = Window(percent - 0.05, percent + 0.1)
    for asked in (
        tiny.watched(cache(model), layers="1", steps=str(skipped))[0],
        tiny.edited(cache(model), Temperature(0.999), layers="1", window=window),
    ):
        with pytest.raises(RuntimeError) as error:
            tiny.sample(asked, steps=6)
        assert (
            f": nothing happened at blocks.1.self_attn. The model did not run at step {skipped}. "
        ) in str(error.value)
        assert "(step caches do)" in str(error.value)


def test_two_runs_of_each_evaluation_are_refused_beside_easycache(model: ModelPatcher) -> None:
    change = Sparsify((0.5,) * tiny.LAYERS, "exact two-run")
    with pytest.raises(ValueError) as error:
        tiny.sample(tiny.edited(easy(model), change))
    assert str(error.value) == (
        "Edit: mode exact two-run evaluates the model twice in each step, and EasyCache skips the "
        "second time; use mode exact, or take EasyCache out"
    )


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Two devices of one CPU."""
    pytest.importorskip("comfy.multigpu", reason="this ComfyUI has no MultiGPU CFG Split")
    import comfy.model_management

    both = [torch.device("cpu"), torch.device("cpu", 0)]
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda **_: both)
    return both


def split(model: ModelPatcher, devices: list[torch.device]) -> ModelPatcher:
    """As MultiGPU CFG Split does it: a copy of the model on the second device."""
    from comfy_extras.nodes_multigpu import MultiGPUCFGSplitNode

    model = model.clone()
    model.cached_patcher_init = (planted, ())
    both: ModelPatcher = MultiGPUCFGSplitNode.execute(model, len(devices)).args[0]
    (copy,) = both.get_additional_models_with_key("multigpu")
    assert copy.model.diffusion_model is not model.model.diffusion_model
    return both


def by_label(record: Any) -> dict[Any, Tensor]:
    return {
        (m.layer, m.step, m.evaluation, m.branch, m.item): m.measures.entropy
        for m in record.data.measurements
    }


@pytest.mark.parametrize("order", ["before", "after"])
def test_every_copy_of_the_model_is_watched_and_changed(
    order: str, model: ModelPatcher, devices: list[torch.device]
) -> None:
    ran: list[nn.Module] = []
    plain, expected = tiny.watched(tiny.edited(model, Temperature(0.5), heads="1"))
    image = tiny.sample(plain)
    if order == "before":
        both = split(tiny.edited(model, Temperature(0.5), heads="1"), devices)
        both, record = tiny.watched(both)
    else:
        both, record = tiny.watched(tiny.edited(model, Temperature(0.5), heads="1"))
        both = split(both, devices)
    patchers = (both, *both.get_additional_models_with_key("multigpu"))
    networks = [patcher.model.diffusion_model for patcher in patchers]
    noting = [n.register_forward_pre_hook(lambda m, _: ran.append(m)) for n in networks]
    torch.testing.assert_close(tiny.sample(both), image, rtol=1e-4, atol=1e-4)
    for handle in noting:
        handle.remove()
    assert len(set(ran)) == 2
    found, wanted = by_label(record), by_label(expected)
    assert len(record.data.measurements) == len(found)
    assert found.keys() == wanted.keys()
    for label, entropy in found.items():
        torch.testing.assert_close(entropy, wanted[label], rtol=1e-4, atol=1e-5)
    modules = [module for network in networks for module in network.modules()]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in modules)


TWO_RUN = Sparsify((0.5,) * 3, "exact two-run")


@pytest.mark.parametrize("change", [PairTransfer(1.0), TWO_RUN, Guide(1.0), Flatten(0.3)], ids=str)
def test_what_a_run_remembers_is_right_on_two_devices(
    change: Any, model: ModelPatcher, devices: list[torch.device]
) -> None:
    how: dict[str, Any] = {}
    if change.pairs:
        how["positive"] = pair_prompts(tiny.prompt(1), tiny.prompt(3))
        how["latent"] = pair_latent(tiny.empty_latent())
    expected = tiny.sample(tiny.edited(model, change), **how)
    both = split(tiny.edited(model, change), devices)
    slow = model.model.diffusion_model.blocks[1].register_forward_pre_hook(lambda *_: sleep(0.05))
    found = tiny.sample(both, **how)  # the other copy is in its next evaluation by then
    slow.remove()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found, tiny.sample(model, **how), atol=1e-2)


def test_normalized_attention_guidance_still_works_on_what_we_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NAG mixes cond's and uncond's outputs; core calls it for HunyuanVideo, not for Wan."""
    from comfy_extras.nodes_nag import NAGuidance

    model = HUNYUAN_VIDEO.make()
    same_length = {"negative": HUNYUAN_VIDEO.prompt(2)}

    def guided(model: ModelPatcher) -> ModelPatcher:
        return NAGuidance.execute(model, 5.0, 0.5, 1.5).args[0]

    plain = HUNYUAN_VIDEO.sample(guided(model), **same_length)
    assert not torch.equal(plain, HUNYUAN_VIDEO.sample(model, **same_length))
    watched, record = tiny.watched(guided(model))
    assert torch.equal(HUNYUAN_VIDEO.sample(watched, **same_length), plain)
    assert {m.branch for m in record.data.measurements} == {"cond", "uncond"}
    one = HUNYUAN_VIDEO.sample(tiny.edited(guided(model), Temperature(0.5)), **same_length)
    other = HUNYUAN_VIDEO.sample(guided(tiny.edited(model, Temperature(0.5))), **same_length)
    assert torch.equal(one, other)
    assert not torch.allclose(one, plain, atol=1e-2)
    alone = HUNYUAN_VIDEO.sample(tiny.edited(model, Temperature(0.5)), **same_length)
    assert not torch.allclose(one, alone, atol=1e-2)


def test_a_patch_of_wans_attention_sees_what_we_changed(model: ModelPatcher) -> None:
    """Patches of core's slot attn1_patch come after the attention, ours or not."""
    seen: list[Tensor] = []

    def patch(args: dict[str, Any]) -> Tensor:
        seen.append(args["x"])
        return args["x"] * 0.5

    patched = model.clone()
    patched.set_model_attn1_patch(patch)
    halved = tiny.sample(patched, steps=1)
    plain = list(seen)
    changed = tiny.sample(tiny.edited(patched, Temperature(0.3), layers="0"), steps=1)
    assert len(seen) == 2 * len(plain) == 2 * tiny.LAYERS
    assert not torch.allclose(seen[tiny.LAYERS], plain[0], atol=1e-3)
    assert not torch.allclose(changed, halved, atol=1e-3)
