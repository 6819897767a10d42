"""Wan 2.1 and 2.2: blocks of self-attention and cross-attention; text stays outside the sequence.

A reference latent puts its tokens before the video or after it, subjects, poses, past motion and
context latents put theirs after it. Image-to-video models attend to the image first, then to the
text, in one cross-attention module.

The layers are those of `blocks` in every variant, so that a number means one thing in all of them.
VACE's own blocks read the control video for them, and modules of audio and faces sit between them:
they are no layers, are not measured and stay as they are.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import nn

from ..grid import TokenGrid, in_patches
from ..sites import Evaluation, Layout, Site

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
    return Layout(NAME, owners, partial(_grid, model))


def _cross_sites(layer: int, cross: nn.Module) -> tuple[Site, ...]:
    name, heads = f"blocks.{layer}.cross_attn", _heads(cross)
    if hasattr(cross, "k_img"):
        image = Site(f"{name}.image", layer, "cross", heads, 0)
        return image, Site(name, layer, "cross", heads, 1)
    return (Site(name, layer, "cross", heads),)


def _grid(model: Any, evaluation: Evaluation, tokens: int) -> TokenGrid:
    frames, rows, cols = in_patches(evaluation.latent, model.patch_size)
    others = tokens - frames * rows * cols
    prefix = _reference_tokens(model, evaluation)
    return TokenGrid(frames, rows, cols, prefix, others - prefix)


def _reference_tokens(model: Any, evaluation: Evaluation) -> int:
    """Tokens of a reference image that some variants put before the video; others put it after."""
    reference = evaluation.named.get("reference_latent")
    before = getattr(model, "ref_conv", None) is not None or hasattr(model, "patch_embedding_pose")
    if reference is None or not before:
        return 0
    shape = reference.shape[2:]  # [H, W] or [F, H, W]
    return math.prod(in_patches((1,) * (3 - len(shape)) + tuple(shape), model.patch_size))


def _heads(attention: nn.Module) -> int:
    return int(attention.num_heads)  # pyright: ignore[reportArgumentType]
