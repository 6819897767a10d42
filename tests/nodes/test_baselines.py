"""The baselines beside their published formulas, written apart, and their neutral settings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from vdit_attention.benchmarks.baselines import (
    attention_skip_guidance,
    cross_frame_score,
    enhance_a_video,
)
from vdit_attention.vdit_core.host.toy_sampling import SamplerSettings, sample_latents
from vdit_attention.vdit_core.host.toy_world import load_toy_world

BATCH, HEADS, FRAMES, PLACES, WIDTH = 2, 3, 5, 4, 6
PROMPTS, SEEDS = ["a red circle falling on a dark background"], [5]


@pytest.fixture(scope="module")
def world():
    model, clip, _ = load_toy_world()
    return model, clip


def sample(world, model, steps: int = 1, cfg: float = 1.0, count: int = 1) -> Tensor:
    settings = SamplerSettings(steps=steps, cfg=cfg)
    with torch.inference_mode():
        seeds = [SEEDS[0] + n for n in range(count)]
        return sample_latents(model, world[1], PROMPTS * count, seeds, settings)


def published_score(q: Tensor, k: Tensor, temperature: float) -> float:
    """Of one video, q and k [H, L, D], in float64 and one place after the other."""
    total, count = 0.0, 0
    for head in range(len(q)):
        for place in range(PLACES):
            rows = [frame * PLACES + place for frame in range(FRAMES)]
            for i in rows:
                scores = [float(q[head, i] @ k[head, j]) / math.sqrt(WIDTH) for j in rows]
                weights = [math.exp(s) for s in scores]
                total += sum(w for w, j in zip(weights, rows, strict=True) if j != i) / sum(weights)
                count += FRAMES - 1
    return max(1.0, (FRAMES + temperature) * total / count)


def test_the_score_is_the_published_one_for_each_video() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, BATCH, HEADS, FRAMES * PLACES, WIDTH, generator=generator)
    found = cross_frame_score(q, k, FRAMES, 3.0)
    wanted = [published_score(*pair, 3.0) for pair in zip(q.double(), k.double(), strict=True)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)
    assert min(wanted) > 1


def test_the_score_of_known_maps() -> None:
    flat = torch.zeros(1, 1, FRAMES * PLACES, WIDTH)
    assert cross_frame_score(flat, flat, FRAMES, 4.0).item() == pytest.approx(9 / 5)
    own = 50 * torch.eye(FRAMES, WIDTH).repeat_interleave(PLACES, 0)[None, None]
    assert cross_frame_score(own, own, FRAMES, 4.0).item() == 1  # frames that see only themselves


def test_enhance_a_video_scales_what_each_self_attention_gives(world) -> None:
    """A score of 2 everywhere is a model whose output projections are doubled."""
    model, _ = world
    doubled = load_toy_world()[0]
    for block in doubled.model.diffusion_model.blocks:
        block.self_attn.o.weight.data *= 2
        block.self_attn.o.bias.data *= 2
    with pytest.MonkeyPatch.context() as patch:
        name = "vdit_attention.benchmarks.baselines.cross_frame_score"
        patch.setattr(name, lambda q, k, frames, temperature: torch.full((len(q),), 2.0))
        found = sample(world, enhance_a_video(model), 2, 2.0)
    assert torch.allclose(found, sample(world, doubled, 2, 2.0), atol=1e-4)
    assert not torch.allclose(found, sample(world, model, 2, 2.0), atol=1e-2)


def test_a_batch_gives_what_each_video_gives_alone(world) -> None:
    enhanced = enhance_a_video(world[0], 2.0)
    assert torch.allclose(
        sample(world, enhanced, 2, 2.0, count=2)[:1], sample(world, enhanced, 2, 2.0), atol=1e-4
    )


def test_neutral_baselines_change_nothing_and_leave_no_hooks(world) -> None:
    model, _ = world
    plain = sample(world, model, 2, 2.0)
    assert torch.equal(sample(world, enhance_a_video(model, -4.9), 2, 2.0), plain)  # scores of 1
    assert torch.equal(sample(world, attention_skip_guidance(model, [1], 0.0), 2, 2.0), plain)
    assert not torch.equal(sample(world, enhance_a_video(model, 4.0), 2, 2.0), plain)
    assert not torch.equal(sample(world, attention_skip_guidance(model, [1], 1.0), 2, 2.0), plain)
    assert torch.equal(sample(world, model, 2, 2.0), plain)


def test_skip_guidance_goes_away_from_a_model_without_these_layers(world) -> None:
    """In one step the latent is what is denoised; the weak model has layers that project to 0."""
    model, _ = world
    weak = load_toy_world()[0]
    for layer in (1, 4):
        attention = weak.model.diffusion_model.blocks[layer].self_attn
        attention.o.weight.data.zero_()
        attention.o.bias.data.zero_()
    cond, lost = sample(world, model), sample(world, weak)
    guided = sample(world, model, cfg=2.0)
    found = sample(world, attention_skip_guidance(model, [1, 4], 1.5), cfg=2.0)
    assert torch.allclose(found, guided + 1.5 * (cond - lost), atol=1e-4)
    assert not torch.allclose(cond, lost, atol=1e-2)
