"""LTX-Video: blocks of self-attention and cross-attention; text stays outside the sequence.

Guide frames are appended to the latent, and their tokens come after the video's. A guide with a
strength or a mask of its own makes core divide each attention into parts with some of the queries
each, which no plan covers: it is refused.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..grid import TokenGrid
from ..sites import Evaluation, Layout, Site

NAME = "LTX-Video"


def find(model: nn.Module) -> Layout | None:
    """The layout of an LTX-Video model, or None if this is not one (such as that with audio)."""
    blocks = getattr(model, "transformer_blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not hasattr(model, "patchify_proj"):
        return None
    if hasattr(model, "audio_patchify_proj"):
        return None
    owners: dict[nn.Module, tuple[Site, ...]] = {}
    for layer, block in enumerate(blocks):
        own: Any = block.attn1
        cross: Any = block.attn2
        name = f"transformer_blocks.{layer}"
        owners[own] = (Site(f"{name}.attn1", layer, "self", int(own.heads)),)
        owners[cross] = (Site(f"{name}.attn2", layer, "cross", int(cross.heads)),)
    return Layout(NAME, owners, _grid, check=_check)


def _grid(evaluation: Evaluation, tokens: int) -> TokenGrid:
    frames, rows, cols = evaluation.latent[-3:]
    guides = evaluation.named.get("keyframe_idxs")
    if guides is not None:
        frames -= guides.shape[2] // (rows * cols)
    return TokenGrid(frames, rows, cols, suffix=tokens - frames * rows * cols)


def _check(evaluation: Evaluation) -> None:
    guides = evaluation.named.get("guide_attention_entries") or ()
    if any(guide["strength"] != 1 or guide.get("pixel_mask") is not None for guide in guides):
        raise ValueError(
            "LTX-Video: a guide (LTXVAddGuide) with a strength other than 1 or with an attention "
            "mask divides each attention into parts, which VDiT nodes cannot follow; give the "
            "guide strength 1 and no mask, or bypass the VDiT nodes"
        )
