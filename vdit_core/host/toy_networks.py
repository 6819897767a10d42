"""The toy world's networks: ComfyUI's own Wan model and Wan VAE classes, small."""

from __future__ import annotations

import json

import torch
from comfy.ldm.wan.model import WanModel
from comfy.ldm.wan.vae import WanVAE
from torch import nn

from ..toy.text import LENGTH, WIDTH

WAN_CONFIG = {
    "model_type": "t2v",
    "patch_size": [1, 1, 1],
    "text_len": LENGTH,
    "in_dim": 16,
    "out_dim": 16,
    "dim": 128,
    "ffn_dim": 384,
    "freq_dim": 64,
    "text_dim": WIDTH,
    "num_heads": 4,
    "num_layers": 6,
}
VAE_DIM = 8


def trainable_wan(seed: int) -> WanModel:
    """A tiny Wan in float32 with fresh weights, for training."""
    torch.manual_seed(seed)
    network = WanModel(**WAN_CONFIG, dtype=torch.float32, operations=nn)  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for module in (network.text_embedding, network.time_embedding):
        for layer in (module[0], module[2]):
            nn.init.normal_(layer.weight, std=0.02 if layer.in_features == 128 else 0.1)
    for block in network.blocks:
        nn.init.normal_(block.modulation, std=128**-0.5)
    nn.init.normal_(network.head.modulation, std=128**-0.5)
    nn.init.zeros_(network.head.head.weight)
    return network


def trainable_vae(seed: int) -> WanVAE:
    """A Wan 2.1 VAE with few channels and fresh weights, for training."""
    torch.manual_seed(seed)
    network = WanVAE(dim=VAE_DIM, z_dim=16)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
