"""Wan 2.1 and 2.2: blocks of self-attention and cross-attention; text stays outside the sequence.

A reference latent puts its tokens before the video, context latents put theirs after it.
Image-to-video models attend to the image first, then to the text, in one cross-attention module.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..grid import TokenGrid
from ..sites import Layout, Site

NAME = "Wan"


def find(model: nn.Module) -> Layout | None:
    """The layout of a Wan model, or None if this is not one."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not hasattr(model, "patch_embedding"):
        return None
    owners: dict[nn.Module, tuple[Site, ...]] = {}
    for layer, block in enumerate(blocks):
        own, cross = getattr(block, "self_attn", None), getattr(block, "cross_attn", None)
        if not isinstance(own, nn.Module) or not isinstance(cross, nn.Module):
            return None
        owners[own] = (Site(f"blocks.{layer}.self_attn", layer, "self", _heads(own)),)
        owners[cross] = _cross_sites(layer, cross)
    has_reference = getattr(model, "ref_conv", None) is not None

    def grid(options: dict[str, object], tokens: int) -> TokenGrid:
        return _grid(options, tokens, has_reference)

    return Layout(NAME, owners, grid)


def _cross_sites(layer: int, cross: nn.Module) -> tuple[Site, ...]:
    name, heads = f"blocks.{layer}.cross_attn", _heads(cross)
    if hasattr(cross, "k_img"):
        image = Site(f"{name}.image", layer, "cross", heads, 0)
        return image, Site(name, layer, "cross", heads, 1)
    return (Site(name, layer, "cross", heads),)


def _grid(options: dict[str, Any], tokens: int, has_reference: bool) -> TokenGrid:
    if "grid_sizes" not in options:
        raise ValueError("grid: this ComfyUI does not tell Wan's grid; version 0.18 or newer does")
    frames, rows, cols = (int(n) for n in options["grid_sizes"])
    others = tokens - frames * rows * cols
    prefix = min(others, rows * cols) if has_reference else 0
    return TokenGrid(frames, rows, cols, prefix, others - prefix)


def _heads(attention: nn.Module) -> int:
    return int(attention.num_heads)  # pyright: ignore[reportArgumentType]
