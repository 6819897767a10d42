"""The toy world's networks: ComfyUI's own Wan model and Wan VAE classes, small."""

from __future__ import annotations

import torch
from comfy.ldm.wan.model import WanModel
from comfy.ldm.wan.vae import WanVAE
from torch import nn

from ..toy.config import VAE_DIM, WAN_CONFIG
from ..toy.latents import CHANNELS


def trainable_wan(seed: int) -> WanModel:
    """A tiny Wan in float32 with fresh weights, for training."""
    torch.manual_seed(seed)
    network = WanModel(**WAN_CONFIG, dtype=torch.float32, operations=nn)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for module in (network.text_embedding, network.time_embedding):
        for layer in module:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02 if layer.in_features == 128 else 0.1)
    for block in network.blocks:
        nn.init.normal_(block.get_parameter("modulation"), std=128**-0.5)
    nn.init.normal_(network.head.modulation, std=128**-0.5)
    nn.init.zeros_(network.head.head.weight)
    return network


def trainable_vae(seed: int) -> WanVAE:
    """A Wan 2.1 VAE with few channels and fresh weights, for training."""
    torch.manual_seed(seed)
    # Where Wan 2.1 halves the frame rate; the class's own default says otherwise.
    time_steps = [False, True, True]
    network = WanVAE(dim=VAE_DIM, z_dim=CHANNELS, temperal_downsample=time_steps)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
