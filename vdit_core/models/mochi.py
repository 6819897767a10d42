"""Mochi: joint attention over the video and then the text, cropped to the longest prompt."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from ..grid import TokenGrid, in_patches
from ..sites import Evaluation, Layout, Site

NAME = "Mochi"


def find(model: nn.Module) -> Layout | None:
    """The layout of a Mochi model, or None if this is not one."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not hasattr(model, "t5_yproj"):
        return None
    owners: dict[nn.Module, tuple[Site, ...]] = {}
    for layer, block in enumerate(blocks):
        attention: Any = block.attn
        site = Site(f"blocks.{layer}.attn", layer, "joint", int(attention.num_heads))
        owners[attention] = (site,)
    return Layout(NAME, owners, partial(_grid, model))


def _grid(model: Any, evaluation: Evaluation, tokens: int) -> TokenGrid:
    size = model.patch_size
    frames, rows, cols = in_patches(evaluation.latent, (1, size, size))
    video = frames * rows * cols
    return TokenGrid(frames, rows, cols, suffix=tokens - video, text=(video, tokens))
