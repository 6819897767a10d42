"""Published ways to enhance a video without training, to stand beside ours. For ComfyUI's Wan.

Enhance-A-Video: Luo et al., arXiv 2502.07508; formula as in its authors' code. Attention-skip
guidance: the spatiotemporal skip guidance of Hyung et al., arXiv 2411.18664, with the weak model
that leaves the self-attention of chosen layers out, added to guidance as in core's node
SkipLayerGuidanceDiT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import calc_cond_batch
from torch import Tensor

from .watch import listening

Rewrite = Callable[[int, Tensor], Tensor]  # layer, what its self-attention gives → another


def enhance_a_video(model: ModelPatcher, temperature: float = 4.0) -> ModelPatcher:
    """Each layer's self-attention gives `cross_frame_score` times as much."""

    def sample(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        scores: dict[int, Tensor] = {}

        def hear(call: Any) -> None:
            scores[call.layer] = cross_frame_score(call.q, call.k, noise.shape[2], temperature)

        def scaled(layer: int, out: Tensor) -> Tensor:
            return out * scores[layer][:, None, None]

        with listening(hear), rewritten(model.model, range(_layers(model.model)), scaled):
            return executor(noise, *args, **kwargs)

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "vdit.enhance_a_video", sample)
    return patched


def cross_frame_score(q: Tensor, k: Tensor, frames: int, temperature: float) -> Tensor:
    """max(1, (frames + temperature) · mean of the off-diagonal of softmax(q kᵀ / √D)). [B]

    q, k: [B, H, L, D]. The softmax is over the frames at one place; the mean over places, heads and
    pairs of frames. Row by row of a batch, so that each video is what it is alone.
    """
    q, k = (x.unflatten(2, (frames, -1)).transpose(2, 3) for x in (q, k))  # [B, H, places, F, D]
    weights = (q * q.shape[-1] ** -0.5 @ k.mT).float().softmax(-1)  # [B, H, places, F, F]
    own = weights.diagonal(dim1=-2, dim2=-1).sum(-1)
    others = (weights.sum((-2, -1)) - own) / (frames * frames - frames)
    return ((frames + temperature) * others.mean((1, 2))).clamp(min=1)


def attention_skip_guidance(
    model: ModelPatcher, layers: Sequence[int], scale: float = 1.0
) -> ModelPatcher:
    """x = guided + scale · (cond − weak), of denoised latents."""

    def guide(args: dict[str, Any]) -> Tensor:
        network, options = args["model"], args["model_options"]
        with rewritten(network, layers, lambda _, out: torch.zeros_like(out)):
            (weak,) = calc_cond_batch(
                network, [args["cond"]], args["input"], args["sigma"], options
            )
        return args["denoised"] + scale * (args["cond_denoised"] - weak)

    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(guide)
    return patched


@contextmanager
def rewritten(model: Any, layers: Sequence[int], rewrite: Rewrite) -> Iterator[None]:
    """What the self-attention of these layers gives, after its last projection, is rewritten."""

    def hook(layer: int) -> Callable[..., Tensor]:
        return lambda module, given, out: rewrite(layer, out)

    blocks = model.diffusion_model.blocks
    handles = [blocks[n].self_attn.register_forward_hook(hook(n)) for n in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layers(model: Any) -> int:
    return len(model.diffusion_model.blocks)
