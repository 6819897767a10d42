"""The same weights in ComfyUI's class and in diffusers' class, and the same inputs for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from torch import Tensor, nn

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Twins:
    """One model twice. told: arguments of ComfyUI's forward → arguments of diffusers' forward.

    heard: the output of diffusers' forward as ComfyUI's gives it.
    """

    model: ModelPatcher
    transformer: nn.Module
    told: Callable[[Inputs], Inputs]
    heard: Callable[[Tensor], Tensor] = lambda out: out


def wan_twins(model: ModelPatcher) -> Twins:
    network: Any = model.model.diffusion_model
    heads = network.num_heads
    twin = WanTransformer3DModel(
        patch_size=tuple(network.patch_size),
        num_attention_heads=heads,
        attention_head_dim=network.dim // heads,
        in_channels=network.in_dim,
        out_channels=network.out_dim,
        text_dim=network.text_dim,
        freq_dim=network.freq_dim,
        ffn_dim=network.ffn_dim,
        num_layers=network.num_layers,
        eps=network.eps,
    )
    _load(twin, convert_wan_transformer_to_diffusers(dict(network.state_dict())))

    def told(given: Inputs) -> Inputs:
        return {
            "hidden_states": given["x"],
            "timestep": given["timestep"],
            "encoder_hidden_states": given["context"],
        }

    return Twins(model, twin, told)


def _load(twin: nn.Module, weights: dict[str, Tensor]) -> None:
    """Every weight has its place, and every place its weight."""
    twin.load_state_dict(weights, strict=True)
    twin.eval().requires_grad_(False)
