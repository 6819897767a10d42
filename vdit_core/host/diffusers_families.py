"""diffusers' module trees: where each family attends, and how its tokens lie in the sequence.

Sites are named and numbered as in ComfyUI's trees, whatever diffusers calls the modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from diffusers import (
    CogVideoXTransformer3DModel,
    HunyuanVideoTransformer3DModel,
    MochiTransformer3DModel,
    WanTransformer3DModel,
)
from torch import nn

from ..grid import TokenGrid, in_patches
from ..models import cogvideox, hunyuan_video, mochi, wan
from ..sites import Evaluation, Layout, Site

Finder = Callable[[Any], Layout]


def find_layout(model: nn.Module) -> Layout:
    """The layout of a transformer of diffusers. Raises ValueError for a class not listed here."""
    for kind, find in FAMILIES.items():
        if isinstance(model, kind):
            return find(model)
    known = ", ".join(kind.__name__ for kind in FAMILIES)
    raise ValueError(
        f"model: {type(model).__name__} is no transformer this pack knows ({known}); "
        "give one of those, or a pipeline that has one"
    )


def _wan(model: Any) -> Layout:
    """Video only; image-to-video models attend to the image first, then to the text."""
    owners: dict[nn.Module, tuple[Site, ...]] = {}
    for layer, block in enumerate(model.blocks):
        heads, cross = block.attn1.heads, f"blocks.{layer}.cross_attn"
        owners[block.attn1] = (Site(f"blocks.{layer}.self_attn", layer, "self", heads),)
        owners[block.attn2] = (Site(cross, layer, "cross", heads),)
        if block.attn2.add_k_proj is not None:
            image = Site(f"{cross}.image", layer, "cross", heads, 0)
            owners[block.attn2] = image, Site(cross, layer, "cross", heads, 1)
    return Layout(wan.NAME, owners, partial(_video_first, model.config.patch_size))


def _mochi(model: Any) -> Layout:
    """Video, then the prompt's tokens; rows come one by one, each without its prompt's padding."""
    owners: dict[nn.Module, tuple[Site, ...]] = {
        block.attn1: (Site(f"blocks.{layer}.attn", layer, "joint", block.attn1.heads),)
        for layer, block in enumerate(model.transformer_blocks)
    }
    patch = (1, model.config.patch_size, model.config.patch_size)
    return Layout(mochi.NAME, owners, partial(_video_first, patch))


def _hunyuan_video(model: Any) -> Layout:
    """Video, then the prompt's tokens, whose padding a mask hides; double blocks, then single."""
    named = [(f"double_blocks.{n}", block) for n, block in enumerate(model.transformer_blocks)]
    single = model.single_transformer_blocks
    named += [(f"single_blocks.{n}", block) for n, block in enumerate(single)]
    owners: dict[nn.Module, tuple[Site, ...]] = {
        block.attn: (Site(name, layer, "joint", block.attn.heads),)
        for layer, (name, block) in enumerate(named)
    }
    patch = (model.config.patch_size_t, model.config.patch_size, model.config.patch_size)
    return Layout(hunyuan_video.NAME, owners, partial(_video_first, patch))


def _cogvideox(model: Any) -> Layout:
    """The prompt's tokens, padding included, then video; latents are [B, F, C, H, W]."""
    owners: dict[nn.Module, tuple[Site, ...]] = {
        block.attn1: (Site(f"blocks.{layer}", layer, "joint", block.attn1.heads),)
        for layer, block in enumerate(model.transformer_blocks)
    }
    patch = (model.config.patch_size_t or 1, model.config.patch_size, model.config.patch_size)

    def grid(evaluation: Evaluation, tokens: int) -> TokenGrid:
        _, latent_frames, _, *size = evaluation.latent
        frames, rows, cols = in_patches((latent_frames, *size), patch)
        text = tokens - frames * rows * cols
        return TokenGrid(frames, rows, cols, prefix=text, text=(0, text))

    return Layout(cogvideox.NAME, owners, grid)


def _video_first(patch: Sequence[int], evaluation: Evaluation, tokens: int) -> TokenGrid:
    """The grid of a sequence whose other tokens, if there are any, are the prompt's."""
    frames, rows, cols = in_patches(evaluation.latent, patch)
    video = frames * rows * cols
    text = (video, tokens) if tokens > video else None
    return TokenGrid(frames, rows, cols, suffix=tokens - video, text=text)


FAMILIES: dict[type[nn.Module], Finder] = {
    WanTransformer3DModel: _wan,
    MochiTransformer3DModel: _mochi,
    HunyuanVideoTransformer3DModel: _hunyuan_video,
    CogVideoXTransformer3DModel: _cogvideox,
}
