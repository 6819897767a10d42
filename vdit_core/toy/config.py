"""Sizes of the toy networks. ComfyUI reads WAN_CONFIG from the model file."""

from __future__ import annotations

from typing import Any

from .latents import CHANNELS
from .text import LENGTH, WIDTH

WAN_CONFIG: dict[str, Any] = {
    "model_type": "t2v",
    "patch_size": [1, 1, 1],
    "text_len": LENGTH,
    "in_dim": CHANNELS,
    "out_dim": CHANNELS,
    "dim": 128,
    "ffn_dim": 384,
    "freq_dim": 64,
    "text_dim": WIDTH,
    "num_heads": 4,
    "num_layers": 6,
}
VAE_DIM = 8
