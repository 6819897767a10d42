"""Tiny transformers of diffusers with random weights, and a scheduler that has its steps."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    MochiTransformer3DModel,
    WanTransformer3DModel,
)

LAYERS = 3


def wan_transformer() -> WanTransformer3DModel:
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        text_dim=24,
        freq_dim=32,
        ffn_dim=96,
        num_layers=LAYERS,
    )
    return model.eval().requires_grad_(False)


def mochi_transformer() -> MochiTransformer3DModel:
    torch.manual_seed(0)
    model = MochiTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        num_layers=2,
        pooled_projection_dim=32,
        text_embed_dim=24,
    )
    return model.eval().requires_grad_(False)


def flow(steps: int, **settings: Any) -> Any:
    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    scheduler.set_timesteps(steps)
    return scheduler
