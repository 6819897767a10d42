"""diffusers' module trees: where each family attends, and how its tokens lie in the sequence.

Sites are named and numbered as in ComfyUI's trees, whatever diffusers calls the modules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers import WanTransformer3DModel
from torch import nn

from ..grid import TokenGrid
from ..models import wan
from ..sites import Layout, Site

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
        own, cross, heads = f"blocks.{layer}.self_attn", f"blocks.{layer}.cross_attn", block.attn1
        owners[block.attn1] = (Site(own, layer, "self", heads.heads),)
        owners[block.attn2] = (Site(cross, layer, "cross", heads.heads),)
        if block.attn2.add_k_proj is not None:
            image = Site(f"{cross}.image", layer, "cross", heads.heads, 0)
            owners[block.attn2] = image, Site(cross, layer, "cross", heads.heads, 1)

    def grid(call: dict[str, Any], tokens: int) -> TokenGrid:
        return TokenGrid(*_patches(call["hidden_states"].shape[2:], model.config.patch_size))

    return Layout(wan.NAME, owners, grid)


def _patches(latent: Any, patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """Frames, rows and columns of patches in a latent [F, H, W]."""
    frames, rows, cols = (size // each for size, each in zip(latent, patch, strict=True))
    return frames, rows, cols


FAMILIES: dict[type[nn.Module], Finder] = {WanTransformer3DModel: _wan}
