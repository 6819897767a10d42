"""The toy world's networks: ComfyUI's own Wan, Mochi and Wan VAE classes, small."""

from __future__ import annotations

from typing import Any

import torch
from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint
from comfy.ldm.genmo.joint_model.layers import FeedForward
from comfy.ldm.wan.model import WanModel
from comfy.ldm.wan.vae import WanVAE
from torch import Tensor, nn

from ..toy.config import MOCHI_CONFIG, MOCHI_MLP_WIDTH, VAE_DIM, WAN_CONFIG
from ..toy.latents import CHANNELS

MOCHI_MLP_REQUIRED = 1536 * 8  # asserted by every block of AsymmDiTJoint
PLACES = 8  # latent rows and columns of a toy clip


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


def mochi_network(config: dict[str, Any], mlp_width: int, operations: Any, **where: Any) -> Any:
    """ComfyUI's Mochi class (AsymmDiTJoint) with narrow MLPs for its video tokens.

    The class insists on the real model's width there, so they are replaced once it is built.
    where: `dtype` and `device`.
    """
    width = config["hidden_size_x"]
    network = AsymmDiTJoint(
        **config, mlp_ratio_x=MOCHI_MLP_REQUIRED / width, operations=operations, **where
    )
    for block in network.blocks:
        # FeedForward takes two thirds of the width it is given, rounded up to `multiple_of`.
        block.mlp_x = FeedForward(
            width, mlp_width, mlp_width, ffn_dim_multiplier=None, operations=operations, **where
        )
    return network


def trainable_mochi(seed: int) -> AsymmDiTJoint:
    """A tiny Mochi in float32 with fresh weights, for training. Its rotation rates stay fixed."""
    torch.manual_seed(seed)
    network = mochi_network(MOCHI_CONFIG, MOCHI_MLP_WIDTH, nn, dtype=torch.float32)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            for name, values in module.named_parameters():  # some have no bias
                (nn.init.xavier_uniform_ if name == "weight" else nn.init.zeros_)(values)
    for block in network.blocks:
        for name in ("mod_x", "mod_y"):
            layer = block.get_submodule(name)
            nn.init.normal_(layer.weight, std=0.02)
            if block.update_y or name == "mod_x":  # scale, gate, scale, gate
                scales_and_gates = layer.bias.data.view(4, -1)
                scales_and_gates[1::2] = 0.25
    nn.init.zeros_(network.final_layer.linear.weight)
    network.pos_frequencies.data.copy_(_rotation_rates(*network.pos_frequencies.shape[1:]))
    # One step of the optimiser would turn the far corners by a radian.
    network.pos_frequencies.requires_grad_(False)
    return network


def _rotation_rates(heads: int, count: int) -> Tensor:
    """Radians per unit of time, height and width, [3, heads, count], each rate of one axis only.

    From one frame or place to the next the rates fall from 1 rad to 0.0001, as in Wan. Mochi's
    positions span the square root of 36864 in height and width, whatever the number of places.
    """
    place = 36864**0.5 / PLACES
    rates = torch.zeros(3, heads, count)
    for axis, unit in enumerate((1.0, place, place)):
        chosen = torch.arange(count)[axis::3]
        rates[axis, :, chosen] = 10000 ** -torch.linspace(0, 1, len(chosen) + 1)[:-1] / unit
    return rates


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
