"""Sample many toy clips at once through ComfyUI's own sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_sampling
import comfy.sample
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..toy.latents import CHANNELS

AT_ONCE = 4  # clips in one batch; on a CPU larger ones are slower
LATENT_SHAPE = (CHANNELS, 5, 8, 8)  # of one clip: 17 frames of 64 × 64 pixels


@dataclass(frozen=True)
class SamplerSettings:
    """What a KSampler node asks for, with the values that suit the toy world.

    shift: of the noise levels, as in the node ModelSamplingSD3; None leaves the model's own, 8 in
    Wan and 6 in Mochi.
    """

    steps: int = 20
    cfg: float = 2.0
    sampler: str = "euler"
    scheduler: str = "simple"
    shift: float | None = None


def sample_latents(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplerSettings,
) -> Tensor:
    """Latents [B, 16, 5, 8, 8], each as a KSampler node with its prompt and seed would give it."""
    if settings.shift is not None:
        model = _shifted(model, settings.shift)
    starts = range(0, len(seeds), AT_ONCE)
    rows = [slice(start, start + AT_ONCE) for start in starts]
    return torch.cat([_sample(model, clip, prompts[r], seeds[r], settings) for r in rows])


def _sample(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplerSettings,
) -> Tensor:
    noise = torch.cat([noise_of(seed) for seed in seeds])
    return comfy.sample.sample(
        model,
        noise,
        settings.steps,
        settings.cfg,
        settings.sampler,
        settings.scheduler,
        encode_prompts(clip, prompts),
        encode_prompts(clip, [""] * len(prompts)),
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=seeds[0],
    )


def noise_of(seed: int) -> Tensor:
    """What a KSampler node with this seed starts from, [1, 16, 5, 8, 8]."""
    noise: Any = comfy.sample.prepare_noise(torch.zeros(1, *LATENT_SHAPE), seed)
    return noise


def encode_prompts(clip: comfy.sd.CLIP, prompts: Sequence[str]) -> list[list[Any]]:
    """One conditioning whose rows are the prompts.

    Mochi's batch has one crop, and ComfyUI takes the sum of its masks for it. That hides padding
    from a single prompt only; here the rows are cropped before, so they must be of one length.
    """
    entries = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0] for prompt in prompts]
    rows: Tensor = torch.cat([entry[0] for entry in entries])
    if "attention_mask" not in entries[0][1]:
        return [[rows, {"pooled_output": None}]]
    mask: Tensor = torch.cat([entry[1]["attention_mask"] for entry in entries])
    lengths = mask.sum(1).tolist()
    if len(set(lengths)) > 1:
        raise ValueError(
            f"prompts: they have {', '.join(map(str, lengths))} words, but Mochi crops a batch to "
            "one length; sample prompts of different lengths one at a time"
        )
    seen = max(1, lengths[0])
    return [[rows[:, :seen], {"pooled_output": None, "attention_mask": mask[:, :seen]}]]


def decode_clips(vae: comfy.sd.VAE, latents: Tensor, at_once: int = 8) -> Tensor:
    """Clips [B, 3, F, R, C] in 0..1 from latents, a few at a time."""
    pieces = [vae.decode(piece).movedim(-1, 1) for piece in latents.split(at_once)]
    return torch.cat(pieces).float().cpu()


def encode_clips(vae: comfy.sd.VAE, clips: Tensor) -> Tensor:
    """Latents [B, 16, 5, 8, 8] from clips [B, 3, F, R, C] in 0..1.

    One at a time: given several, ComfyUI crops the number of frames to a multiple of 8.
    """
    return torch.cat([vae.encode(clip.movedim(0, -1)) for clip in clips])


def _shifted(model: ModelPatcher, shift: float) -> ModelPatcher:
    class Sampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    usual: Any = model.get_model_object("model_sampling")
    sampling = Sampling(model.model.model_config)
    sampling.set_parameters(shift=shift, multiplier=usual.multiplier)
    patched = model.clone()
    patched.add_object_patch("model_sampling", sampling)
    return patched
