"""A tiny real Wan model: ComfyUI's own class with random weights, sampled by its own sampler."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import comfy.ops
import comfy.sample
import comfy.sd
import torch
from comfy.ldm.wan.model import WanModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor

LAYERS, HEADS, WIDTH = 3, 4, 16
FRAMES, ROWS, COLS = 3, 5, 7
TOKENS = FRAMES * ROWS * COLS
TEXT_WIDTH = 24
Conditioning = list[list[Any]]
CONFIG: dict[str, Any] = {
    "dim": HEADS * WIDTH,
    "num_heads": HEADS,
    "ffn_dim": 96,
    "num_layers": LAYERS,
    "text_dim": TEXT_WIDTH,
    "text_len": 8,
    "freq_dim": 32,
    "patch_size": [1, 1, 1],
    "in_dim": 16,
    "out_dim": 16,
}


def tiny_wan(seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any) -> ModelPatcher:
    """A Wan model of 3 layers with 4 heads of width 16, whose attention is far from uniform."""
    config = CONFIG | config
    torch.manual_seed(seed)
    network = WanModel(**config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    for name, weight in network.named_parameters():
        fan_in = weight[0].numel() if weight.ndim > 1 else 1
        if weight.ndim == 1:
            torch.nn.init.constant_(weight, 1.0 if "norm" in name and "weight" in name else 0.0)
        else:
            torch.nn.init.normal_(weight, std=0.5 if "modulation" in name else fan_in**-0.5)
        if "norm_q" in name:
            weight.data *= 1 + torch.rand_like(weight)
    metadata = {"config": json.dumps({"transformer": config})}
    model: ModelPatcher | None = comfy.sd.load_diffusion_model_state_dict(
        network.state_dict(), model_options={"dtype": dtype}, metadata=metadata
    )
    assert model is not None
    if dtype != torch.float32:  # else ComfyUI computes in float32 on a CPU
        model.model.manual_cast_dtype = dtype
    return model


def prompt(seed: int, tokens: int = 8, batch: int = 1, **extras: Any) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(batch, tokens, TEXT_WIDTH, generator=generator), extras]]


def empty_latent(batch: int = 1, frames: int = FRAMES) -> dict[str, Any]:
    return {"samples": torch.zeros(batch, 16, frames, ROWS, COLS)}


def sample(
    model: ModelPatcher,
    *,
    positive: Conditioning | None = None,
    negative: Conditioning | None = None,
    latent: dict[str, Any] | None = None,
    steps: int = 2,
    cfg: float = 3.0,
    sampler: str = "euler",
    seed: int = 1,
    noise: Tensor | None = None,
    callback: Callable[..., None] | None = None,
) -> Tensor:
    """What a KSampler node does, in the mode in which ComfyUI runs all nodes; or on given noise."""
    latent = latent or empty_latent()
    samples = latent["samples"]
    start: Any = noise
    if noise is None:
        start = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            start,
            steps,
            cfg,
            sampler,
            "simple",
            positive or prompt(1),
            negative or prompt(2),
            samples,
            noise_mask=latent.get("noise_mask"),
            callback=callback,
            disable_pbar=True,
            seed=seed,
        )
