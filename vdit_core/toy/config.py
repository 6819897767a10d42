"""Sizes of the toy networks. The model files carry theirs: WAN_CONFIG is read by ComfyUI itself."""

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
MOCHI_CONFIG: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": CHANNELS,
    "learn_sigma": False,
    "hidden_size_x": 128,
    "hidden_size_y": 64,
    "depth": 6,
    "num_heads": 4,
    "use_t5": True,
    "t5_feat_dim": WIDTH,
    "t5_token_length": LENGTH,
    "timestep_scale": 1000.0,
    "qk_norm": True,
}
MOCHI_MLP_WIDTH = 256  # between the two layers of each video token's MLP
VAE_DIM = 8
