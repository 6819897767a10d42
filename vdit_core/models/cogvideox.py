"""CogVideoX: joint attention over the text and then the video, made inside the block itself."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from ..grid import TokenGrid, in_patches
from ..sites import Evaluation, Layout, Site

NAME = "CogVideoX"


def find(model: nn.Module) -> Layout | None:
    """The layout of a CogVideoX model, or None if this is not one."""
    blocks = getattr(model, "blocks", None)
    embed = getattr(model, "patch_embed", None)
    if not isinstance(blocks, nn.ModuleList) or not hasattr(embed, "text_proj"):
        return None
    owners: dict[nn.Module, tuple[Site, ...]] = {}
    for layer, block in enumerate(blocks):
        heads: Any = block.num_heads
        owners[block] = (Site(f"blocks.{layer}", layer, "joint", int(heads)),)
    return Layout(NAME, owners, partial(_grid, model))


def _grid(model: Any, evaluation: Evaluation, tokens: int) -> TokenGrid:
    patch = (model.patch_size_t or 1, model.patch_size, model.patch_size)
    frames, rows, cols = in_patches(evaluation.latent, patch)
    text = tokens - frames * rows * cols
    return TokenGrid(frames, rows, cols, prefix=text, text=(0, text))
