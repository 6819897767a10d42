"""A video as footage, a mask, and what VDiT Video Source makes of them."""

from __future__ import annotations

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.nodes.footage import VDiTVideoSource
from vdit_attention.tests.nodes import tiny
from vdit_attention.vdit_core.pairs import pair_prompts

BOTH = pair_prompts(tiny.prompt(5), tiny.prompt(6))
SETTINGS: dict[str, Any] = {
    "layers": "all",
    "heads": "all",
    "strength": 1.0,
    "schedule": "",
    "region": "all",
    "start_percent": 0.0,
    "end_percent": 1.0,
    "branch": "both",
}


def video(batch: int = 1, seed: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = batch, 16, tiny.FRAMES, tiny.ROWS, tiny.COLS
    return torch.randn(shape, generator=generator)


def mask(seed: int = 12) -> Tensor:
    """Of 9 frames of 10 × 14 pixels; some places drawn, some not, some in part."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(9, 10, 14, generator=generator) > 0.5).float()


def node(model: ModelPatcher, latent: Tensor | None = None, **settings: Any) -> tuple[Any, Any]:
    """Model and latent of VDiT Video Source."""
    latent = video() if latent is None else latent
    prepared: Any = VDiTVideoSource.PREPARE_CLASS_CLONE(None)
    return prepared.execute(model, {"samples": latent}, **(SETTINGS | settings)).result
