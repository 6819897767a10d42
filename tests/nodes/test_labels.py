"""Records label layer, head, step, branch and video rightly, whatever the sampler and the model.

Attention is planted: the scores of each head are multiplied by a number of its own, so that its
entropy tells which it is. The truth is computed from the Q and K that went past.
"""

from __future__ import annotations

import inspect
from typing import Any

import comfy.ldm.modules.attention as core
import comfy.ldm.wan.model
import comfy.samplers
import pytest
import torch
from comfy.ldm.wan.model import WanModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.oracle import Case, no_wish
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.host.comfy import layout_of
from vdit_attention.vdit_core.record import Measurement, RecordData


def planted(**config: Any) -> ModelPatcher:
    """Head h of layer l is sharper the larger 4 l + h is."""
    model = tiny.tiny_wan(**config)
    for layer, block in enumerate(model.model.diffusion_model.blocks):
        sharpness = torch.tensor([0.15 * 1.35 ** (4 * layer + head) for head in range(tiny.HEADS)])
        block.self_attn.norm_q.weight.data = sharpness.repeat_interleave(tiny.WIDTH)
        block.self_attn.norm_k.weight.data.fill_(1.0)
    return model


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return planted()


def entropies(seen: tiny.Seen) -> Tensor:
    """Mean row entropy of each row and head, [B, H], from the Q and K that went past."""
    maps = Case(seen.q, seen.k, seen.v, no_wish(seen.q.shape[0], tiny.HEADS)).true_maps()
    return torch.special.entr(maps).sum(-1).mean(-1)


def captured(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch, **how: Any
) -> tuple[RecordData, list[tiny.Seen]]:
    """A record of everything, and the self-attention calls that were seen from outside."""
    spy = tiny.Spy(core.attention_pytorch)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", spy)
    watched, record = tiny.watched(model)
    tiny.sample(watched, **how)
    return record.data, [s for s in spy.seen if not s.cross and s.q.shape[2] == s.k.shape[2]]


Label = tuple[int, float, str, int]


def truth(calls: list[tiny.Seen]) -> list[tuple[Label, Tensor]]:
    """Layer, sigma, branch and video of every row of every call, and its entropies."""
    found: list[tuple[Label, Tensor]] = []
    for seen in calls:
        for row, entropy in enumerate(entropies(seen)):
            branch = ("cond", "uncond")[seen.chunks[row // seen.items]]
            found.append(((seen.layer, seen.sigma, branch, row % seen.items), entropy))
    return found


def label(m: Measurement) -> Label:
    return m.layer, m.sigma, m.branch, m.item


def assert_labels(data: RecordData, calls: list[tiny.Seen]) -> None:
    expected = truth(calls)
    assert [label(m) for m in data.measurements] == [where for where, _ in expected]
    for m, (_, entropy) in zip(data.measurements, expected, strict=True):
        torch.testing.assert_close(m.measures.entropy.double(), entropy, rtol=1e-4, atol=1e-5)
        assert m.site == f"blocks.{m.layer}.self_attn"
        assert m.heads == (0, 1, 2, 3)
        sigmas = data.header.sigmas
        assert sigmas[m.step] >= m.sigma * (1 - 1e-3)


def loop_index() -> int:
    """The step that a sampler of core is in, by the variable of its own loop."""
    frame = inspect.currentframe()
    while frame := frame and frame.f_back:
        if frame.f_code.co_filename.endswith(("k_diffusion/sampling.py", "uni_pc.py")):
            for name in ("i", "step_index"):
                if name in frame.f_locals and "callback" in frame.f_locals:
                    return frame.f_locals[name]
    raise AssertionError("the model is evaluated by no sampler of core")


def steps_of_evaluations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Filled while something samples: the step of each evaluation, and which of the step it is."""
    found: list[tuple[int, int]] = []
    original = comfy.samplers.sampling_function

    def noted(*args: Any, **kwargs: Any) -> Tensor:
        step = loop_index()
        found.append((step, sum(step == s for s, _ in found)))
        return original(*args, **kwargs)

    monkeypatch.setattr(comfy.samplers, "sampling_function", noted)
    return found


WITH_STEPS_OF_THEIR_OWN = {"dpm_fast", "dpm_adaptive"}
SAMPLERS = [s for s in comfy.samplers.SAMPLER_NAMES if s not in WITH_STEPS_OF_THEIR_OWN]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_labels_are_right_for(
    sampler: str, model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = steps_of_evaluations(monkeypatch)
    some, record = tiny.watched(model, layers="1", steps="2")
    data, calls = captured(some, monkeypatch, sampler=sampler, steps=4)
    assert_labels(data, calls)
    for layer in range(tiny.LAYERS):
        for branch in ("cond", "uncond"):
            found = [m for m in data.measurements if (m.layer, m.branch) == (layer, branch)]
            assert [(m.step, m.evaluation) for m in found] == expected
    assert {step for step, _ in expected} == {0, 1, 2, 3}
    assert [label(m) for m in record.data.measurements] == [
        label(m) for m in data.measurements if m.layer == 1 and m.step == 2
    ]


@pytest.mark.parametrize("sampler", sorted(WITH_STEPS_OF_THEIR_OWN))
def test_steps_are_told_by_noise_levels_where_the_sampler_has_others(
    sampler: str, model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, calls = captured(model, monkeypatch, sampler=sampler, steps=4)
    assert_labels(data, calls)
    sigmas = data.header.sigmas
    for m in data.measurements:
        assert sigmas[m.step] >= m.sigma * (1 - 1e-3) > sigmas[m.step + 1] * (1 - 1e-3)
    keys = [(m.site, m.step, m.evaluation, m.branch, m.item) for m in data.measurements]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (1, 2), (2, 3)])
def test_one_sharp_head_is_found_where_it_was_planted(layer: int, head: int) -> None:
    model = tiny.tiny_wan()
    for block in model.model.diffusion_model.blocks:
        block.self_attn.norm_q.weight.data.fill_(0.5)
    weight = model.model.diffusion_model.blocks[layer].self_attn.norm_q.weight.data
    weight.unflatten(0, (tiny.HEADS, -1))[head] = 8
    watched, record = tiny.watched(model)
    tiny.sample(watched)
    for branch in ("cond", "uncond"):
        found = [record.data.find(layer=n, step=1, branch=branch) for n in range(tiny.LAYERS)]
        entropy = torch.stack([m.measures.entropy for m in found])
        assert int(entropy.argmin()) == layer * tiny.HEADS + head
        assert float(entropy.min()) < float(entropy.flatten().sort().values[1]) / 2


def test_chosen_heads_keep_their_numbers(model: ModelPatcher) -> None:
    everything, all_of_it = tiny.watched(model)
    some, record = tiny.watched(everything, layers="-1", heads="3,1", steps="1")
    tiny.sample(some)
    for m in record.data.measurements:
        assert (m.layer, m.step, m.heads) == (2, 1, (1, 3))
        whole = all_of_it.data.find(layer=2, step=1, branch=m.branch)
        assert torch.equal(m.measures.pooled_map, whole.measures.pooled_map[[1, 3]])


def test_the_videos_of_a_batch_keep_their_numbers(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, calls = captured(model, monkeypatch, latent=tiny.empty_latent(3))
    assert_labels(data, calls)
    assert {m.item for m in data.measurements} == {0, 1, 2}


def test_with_cfg_1_there_is_only_cond(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, calls = captured(model, monkeypatch, cfg=1.0)
    assert_labels(data, calls)
    assert {m.branch for m in data.measurements} == {"cond"}


@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_a_branch_alone_is_measured_alone(branch: str, model: ModelPatcher) -> None:
    everything, all_of_it = tiny.watched(model)
    watched, record = tiny.watched(everything, branch=branch)
    tiny.sample(watched)
    assert {m.branch for m in record.data.measurements} == {branch}
    for m in record.data.measurements:
        whole = all_of_it.data.find(layer=m.layer, step=m.step, branch=branch)
        assert torch.equal(m.measures.entropy, whole.measures.entropy)


def test_cond_and_uncond_that_do_not_share_a_batch_are_told_apart(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comfy.samplers, "can_concat_cond", lambda a, b: a is b)
    data, calls = captured(model, monkeypatch)
    assert {len(seen.chunks) for seen in calls} == {1}
    assert_labels(data, calls)


def test_a_guider_with_three_conditionings_keeps_their_names(model: ModelPatcher) -> None:
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    watched, record = tiny.watched(model)
    guider: Any = Guider_DualCFG(watched)
    guider.set_conds(tiny.prompt(1), tiny.prompt(2), tiny.prompt(3))
    guider.set_cfg(3.0, 2.0)
    latent = tiny.empty_latent()["samples"]
    sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.5, 0.0])
    guider.sample(torch.randn_like(latent), latent, sampler, sigmas, disable_pbar=True, seed=1)
    assert {m.branch for m in record.data.measurements} == {"cond", "middle", "uncond"}


def test_two_cross_attentions_of_image_to_video_do_not_shift_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = planted(model_type="i2v", in_dim=36)
    sites = {site.name: site for site in layout_of(model).sites}
    assert sites["blocks.1.cross_attn.image"].order == 0
    assert sites["blocks.1.cross_attn"].order == 1
    image: Any = type("Image", (), {"penultimate_hidden_states": torch.randn(1, 5, 1280)})
    data, calls = captured(
        model,
        monkeypatch,
        positive=tiny.prompt(1, clip_vision_output=image),
        negative=tiny.prompt(2, clip_vision_output=image),
    )
    assert_labels(data, calls)
    assert data.header.grid == TokenGrid(3, 5, 7)


def test_reference_tokens_before_the_video_are_the_grids_prefix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = planted(in_dim_ref_conv=16)
    reference = {"reference_latents": [torch.randn(1, 16, 1, tiny.ROWS, tiny.COLS)]}
    data, calls = captured(
        model,
        monkeypatch,
        positive=tiny.prompt(1, **reference),
        negative=tiny.prompt(2, **reference),
    )
    assert data.header.grid == TokenGrid(3, 5, 7, prefix=35)
    assert_labels(data, calls)
    maps = Case(calls[0].q, calls[0].k, calls[0].v, no_wish(2, tiny.HEADS)).true_maps()
    on_reference = maps[0, :, 35:, :35].sum(-1).mean(-1)
    found = data.measurements[0].measures.other_mass.double()
    bins = data.header.grid.bins(64).bincount().double()
    torch.testing.assert_close(found @ bins / bins.sum(), on_reference, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(
    "context_latents" not in WanModel.forward_orig.__code__.co_consts,
    reason="this ComfyUI's Wan takes no context latents; 0.24 or newer does",
)
def test_context_latents_after_the_video_are_the_grids_suffix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = {"context_latents": [torch.randn(1, 16, 1, 2, 3)]}
    data, calls = captured(
        planted(),
        monkeypatch,
        positive=tiny.prompt(1, **context),
        negative=tiny.prompt(2, **context),
    )
    assert data.header.grid == TokenGrid(3, 5, 7, suffix=6)
    assert_labels(data, calls)


def test_a_noise_mask_does_not_disturb_labels(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    latent = tiny.empty_latent() | {"noise_mask": torch.ones(1, 1, 3, 5, 7)}
    latent["noise_mask"][:, :, 0] = 0
    data, calls = captured(model, monkeypatch, latent=latent)
    assert_labels(data, calls)


def test_time_steps_of_their_own_for_each_frame_do_not_disturb_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wan 2.2 5B: a frame that is given has time step 0, the others the sampler's."""
    latent = {"samples": torch.zeros(1, 48, tiny.FRAMES, tiny.ROWS, tiny.COLS)}
    latent["noise_mask"] = torch.ones(1, 1, tiny.FRAMES, tiny.ROWS, tiny.COLS)
    latent["noise_mask"][:, :, 0] = 0
    model = planted(in_dim=48, out_dim=48)
    assert type(model.model).__name__ == "WAN22"
    data, calls = captured(model, monkeypatch, latent=latent)
    assert_labels(data, calls)
    assert data.header.grid == TokenGrid(3, 5, 7)
