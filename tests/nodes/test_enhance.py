"""Temperature and guidance of VDiT Entropy Enhance, through ComfyUI's sampler and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import comfy.ldm.modules.attention as core
import comfy.ldm.wan.model
import comfy.samplers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.nodes.enhance import VDiTEntropyEnhance
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.entropies import dense_map, highest, layers_of, levels, run, shares
from vdit_attention.tests.nodes.families import MOCHI, VIDEO
from vdit_attention.tests.nodes.test_choosing import ENHANCE, calls, enhanced, measured
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.host import comfy as host
from vdit_attention.vdit_core.pairs import pair_latent, pair_prompts

TWO: dict[str, Any] = {"positive": tiny.prompt(1, batch=2), "latent": tiny.empty_latent(2)}


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.tiny_wan()


def at_temperature(q: Tensor, k: Tensor, temperature: Tensor) -> Tensor:
    """Maps at one temperature for each row and head [B, H]."""
    return dense_map(q.double() / temperature[..., None, None], k)


def raised(q: Tensor, k: Tensor, share: float) -> Tensor:
    """By bisection: the temperatures [B, H] at which the entropies have gone a share of the way."""
    low, high = torch.ones(q.shape[:2]).double(), torch.full(q.shape[:2], 1e4).double()
    own = shares(at_temperature(q, k, low), k.shape[2])
    wanted = own + share * (1 - own)
    for _ in range(60):
        middle = (low * high).sqrt()
        under = shares(at_temperature(q, k, middle), k.shape[2]) < wanted
        low, high = torch.where(under, middle, low), torch.where(under, high, middle)
    return low


@pytest.mark.parametrize("batch", [1, 2])
def test_temperatures_are_found_once_and_kept(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    changed = enhanced(model, mode="temperature", strength=0.3)
    how: dict[str, Any] = TWO if batch == 2 else {}
    seen = calls(changed, monkeypatch, steps=4, **how)
    (layer,) = highest(layers_of(measured(seen, 1, "both", tuple(range(batch)))), 1)
    first = next(c for c in seen if c.layer == layer and c.sigma == levels(seen)[1])
    found = raised(first.q, first.k, 0.3)
    assert bool((found > 1.01).all())
    for call in seen:
        acts = call.layer == layer and call.sigma < levels(seen)[0]
        maps = at_temperature(call.q, call.k, found if acts else torch.ones_like(found))
        near = {"rtol": 0.0, "atol": 3e-3} if acts else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(call.out.double(), maps @ call.v.double(), **near)
    plain = [dense_map(c.q, c.k) @ c.v.double() for c in seen if c.layer == layer]
    ours = [c.out.double() for c in seen if c.layer == layer]
    assert max(float((a - b).abs().max()) for a, b in zip(plain, ours, strict=True)) > 0.05


def test_the_node_says_its_temperatures(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(host, "tell", lambda asker, text: said.append(text))
    seen = calls(enhanced(model, mode="temperature", branch="cond"), monkeypatch, steps=3)
    (layer,) = highest(layers_of(measured(seen, 1, "cond", (0,))), 1)
    first = next(c for c in seen if c.layer == layer and c.sigma == levels(seen)[1])
    row = first.chunks.index(0)
    found = raised(first.q[row : row + 1], first.k[row : row + 1], 0.4)[0]
    *_, line = said[-1].split("\n")
    before = f"temperatures of layers {layer} ("
    assert line.startswith(before)
    told = [float(x) for x in line.removeprefix(before)[:-1].split(" to ")]
    assert told == pytest.approx([float(found.min()), float(found.max())], abs=0.02)


Attention = Callable[..., Tensor]


def guided_by_hand(
    model: ModelPatcher, scale: float, acts: Callable[[float], bool], weak: list[bool]
) -> ModelPatcher:
    """Core's own way: a post-CFG function that evaluates the model once more, marked in `weak`."""

    def away(args: dict[str, Any]) -> Tensor:
        if not acts(float(args["sigma"][0])):
            return args["denoised"]
        weak.append(True)
        (other,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"], args["sigma"], args["model_options"]
        )
        weak.pop()
        return args["denoised"] + scale * (args["cond_denoised"] - other)

    guided = model.clone()
    guided.set_model_sampler_post_cfg_function(away)
    return guided


def with_identity(weak: list[bool], layer: int) -> Attention:
    """Core's attention, but V itself in the self-attention of one layer while `weak`."""

    def attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **named: Any) -> Tensor:
        here = named["transformer_options"].get("block_index") == layer
        if weak and here and q.shape[1] == k.shape[1] == tiny.TOKENS:
            return v
        return core.attention_pytorch(q, k, v, *args, **named)

    return attention


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_guidance_is_core_s_with_identity_maps(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch, sampler: str, cfg: float
) -> None:
    how = {"steps": 4, "cfg": cfg, "sampler": sampler, **TWO}
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", core.attention_pytorch)
    guided = enhanced(model, mode="guidance", strength=1.5, first_steps=2)
    branches = (0, 1)
    seen = calls(model, monkeypatch, **how)
    first = [call for call in seen if call.sigma > levels(seen)[2] * 1.0001]
    numbers = measured(first, 9, "both" if cfg > 1 else "cond", branches)
    (layer,) = highest(layers_of(numbers), 1)
    weak: list[bool] = []
    limit = levels(seen)[2] * 1.0001
    by_hand = guided_by_hand(model, 1.5, lambda sigma: sigma <= limit, weak)
    ours = tiny.sample(guided, **how)
    with monkeypatch.context() as patch:
        attention = with_identity(weak, layer)
        patch.setattr(comfy.ldm.wan.model, "optimized_attention", attention)
        expected = tiny.sample(by_hand, **how)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, tiny.sample(model, **how), atol=0.05)


def identity_among_video(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """A video query keeps what it gives to text, and gives the rest to itself. [B, H, L, D]"""
    scores = q.double() @ k.double().mT / math.sqrt(q.shape[-1])
    weights = (scores if mask is None else scores + mask.double()).softmax(-1)
    video = weights[:, :, :VIDEO, :VIDEO]
    kept = torch.diag_embed(video.sum(-1))
    weights[:, :, :VIDEO, :VIDEO] = kept
    return (weights @ v.double()).to(v.dtype)


def test_guidance_among_video_in_joint_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    model, weak = MOCHI.make(), list[bool]()
    how: dict[str, Any] = {"steps": 3, "latent": MOCHI.latent(2)}

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **named: Any):
        if not weak or not named.get("skip_reshape") or q.shape[2] < VIDEO:
            return core.attention_pytorch(q, k, v, heads, mask=mask, **named)
        out = identity_among_video(q, k, v, mask)
        return out.transpose(1, 2).flatten(2)

    watched = run(
        VDiTEntropyEnhance,
        model=model,
        **(ENHANCE | {"mode": "guidance", "share": 1.0, "strength": 2.0}),
    )[0]
    sigmas: list[float] = []
    plain = guided_by_hand(model, 0.0, lambda sigma: bool(sigmas.append(sigma)), weak)
    before = MOCHI.sample(plain, **how)
    by_hand = guided_by_hand(model, 2.0, lambda sigma: sigma < sigmas[0], weak)
    ours = MOCHI.sample(watched, **how)
    monkeypatch.setattr(f"{MOCHI.module}.optimized_attention", attention)
    expected = MOCHI.sample(by_hand, **how)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(ours, before, atol=0.05)


@pytest.mark.parametrize("mode", ["temperature", "guidance"])
def test_strength_zero_changes_no_bit(model: ModelPatcher, mode: str) -> None:
    plain = tiny.sample(model, steps=3)
    assert torch.equal(tiny.sample(enhanced(model, mode=mode, strength=0.0), steps=3), plain)
    changed = enhanced(model, mode=mode)
    first = tiny.sample(changed, steps=3)
    assert not torch.equal(first, plain)
    tiny.sample(changed, steps=4, seed=5)
    assert torch.equal(tiny.sample(changed, steps=3), first)


def test_a_capture_does_not_see_the_weak_evaluation(model: ModelPatcher) -> None:
    guided = enhanced(model, mode="guidance")
    watched, record = tiny.watched(guided)
    assert torch.equal(tiny.sample(watched, steps=3), tiny.sample(guided, steps=3))
    counts = [(m.layer, m.step, m.evaluation, m.branch) for m in record.data.measurements]
    assert len(counts) == len(set(counts)) == 3 * tiny.LAYERS * 2
    assert {evaluation for _, _, evaluation, _ in counts} == {0}


def test_other_edits_act_in_the_weak_evaluation_too(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = tiny.edited(enhanced(model, mode="guidance", share=1.0), Temperature(0.5), layers="1")
    seen = calls(both, monkeypatch, steps=2)
    weak = [call for call in seen if len(call.chunks) == 1]
    assert [call.layer for call in weak] == [0, 1, 2]
    for call in weak:
        torch.testing.assert_close(call.out, call.v)
    lone = tiny.edited(enhanced(model, mode="guidance"), Temperature(0.5))
    for call in calls(lone, monkeypatch, steps=2):
        if len(call.chunks) == 1 and not torch.equal(call.out, call.v):
            expected = dense_map(call.q.double() / 0.5, call.k) @ call.v.double()
            torch.testing.assert_close(call.out.double(), expected, rtol=1e-4, atol=1e-5)


def test_every_context_window_is_evaluated_once_more(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    cut = {"closed_loop": True, "fuse_method": "pyramid", "dim": 2, "freenoise": False}
    guided = enhanced(model, mode="guidance", share=1.0)
    windows = ContextWindowsManualNode.execute(guided, 3, 1, "standard_static", 1, **cut).args[0]
    seen = calls(windows, monkeypatch, steps=3, latent=tiny.empty_latent(frames=7))
    weak = [call for call in seen if len(call.chunks) == 1]
    assert len(weak) == 2 * 3 * tiny.LAYERS  # steps that are guided × windows
    for call in weak:
        torch.testing.assert_close(call.out, call.v)


def test_two_guides_add_up_and_a_pair_is_guided_as_a_pair(model: ModelPatcher) -> None:
    pair: dict[str, Any] = {
        "positive": pair_prompts(tiny.prompt(1), tiny.prompt(3)),
        "latent": pair_latent(tiny.empty_latent()),
    }
    once = tiny.sample(enhanced(model, mode="guidance", strength=1.0), steps=3, **pair)
    halves = enhanced(enhanced(model, mode="guidance", strength=0.5), mode="guidance", strength=0.5)
    torch.testing.assert_close(tiny.sample(halves, steps=3, **pair), once, rtol=1e-5, atol=1e-5)


def test_what_guidance_cannot_be_with_is_refused(model: ModelPatcher) -> None:
    from comfy_extras.nodes_easycache import EasyCacheNode

    with pytest.raises(ValueError, match="choose both or cond"):
        enhanced(model, mode="guidance", branch="uncond")
    with pytest.raises(ValueError, match="strength: got -1"):
        enhanced(model, mode="guidance", strength=-1.0)
    cached = EasyCacheNode.execute(enhanced(model, mode="guidance"), 0.2, 0.15, 0.95, False).args[0]
    with pytest.raises(ValueError, match="EasyCache skips that"):
        tiny.sample(cached, steps=3)
