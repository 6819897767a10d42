"""Listen to the attention calls of ComfyUI's Wan model from outside of this pack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.ldm.wan.model as wan
import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..vdit_core.host.toy_sampling import encode_prompts
from ..vdit_core.host.toy_world import load_toy_world

PROMPTS = ["a red circle falling on a striped background", "a blue ring still on a dark background"]
AWKWARD = (2, 16, 3, 5, 7)  # a pair of latents of 3 × 5 × 7 tokens


@dataclass(frozen=True)
class Heard:
    """One self-attention call. q, k, v, out: [B, H, L, D]. branches: 0 cond, 1 uncond, per row."""

    layer: int
    sigma: float
    branches: tuple[int, ...]
    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor


@contextmanager
def listening(hear: Callable[[Heard], None], dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Tell `hear` of every self-attention call: what goes in, and what finally comes out.

    dtype: what attention is computed in meanwhile, whatever the rest of the model uses.
    """
    original = wan.optimized_attention

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **kwargs: Any) -> Tensor:
        outer = q.dtype
        q, k, v = (x.to(dtype) for x in (q, k, v))
        out = original(q, k, v, heads, **kwargs)
        if q.shape == k.shape:  # in cross-attention the keys are text
            split = [x.unflatten(-1, (heads, -1)).transpose(1, 2).clone() for x in (q, k, v, out)]
            options = kwargs["transformer_options"]
            conds: list[int] = options["cond_or_uncond"]
            branches = tuple(c for c in conds for _ in range(len(q) // len(conds)))
            sigma = float(options["sigmas"].flatten()[0])
            hear(Heard(options["block_index"], sigma, branches, *split))
        return out.to(outer)

    wan.optimized_attention = attention
    try:
        yield
    finally:
        wan.optimized_attention = original


class Sampling:
    """The toy world and one way to sample it, always with the same noise."""

    def __init__(self, shape: Sequence[int] = AWKWARD, steps: int = 3, cfg: float = 4.0) -> None:
        self.model, clip, _ = load_toy_world()
        count = shape[0]
        self.positive = encode_prompts(clip, (PROMPTS * count)[:count])
        self.negative = encode_prompts(clip, [""] * count)
        self.noise = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        self.steps, self.cfg = steps, cfg

    def __call__(
        self, model: ModelPatcher, callback: Callable[[int], None] | None = None
    ) -> Tensor:
        """Latents [B, 16, F, R, C]. callback: called with the index of each finished step."""
        latent = torch.zeros_like(self.noise)
        told = None if callback is None else lambda step, *_: callback(step)
        return comfy.sample.sample(
            model,
            self.noise,
            self.steps,
            self.cfg,
            "euler",
            "simple",
            self.positive,
            self.negative,
            latent,
            callback=told,
            disable_pbar=True,
            seed=0,
        )
