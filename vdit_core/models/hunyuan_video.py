"""HunyuanVideo: double blocks, then single blocks, of joint attention over text and then video.

The attention is made inside the blocks. The refiner of the text attends before them; its calls are
no sites. A reference latent puts its tokens between text and video; other encoders' tokens stand
before the prompt in version 1.5, and after it in version 1.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import nn

from ..grid import TokenGrid, in_patches
from ..sites import Evaluation, Layout, Site

NAME = "HunyuanVideo"


def find(model: Any) -> Layout | None:
    """The layout of a HunyuanVideo model, or None if this is not one."""
    double, single = (getattr(model, f"{kind}_blocks", None) for kind in ("double", "single"))
    refiner = getattr(model, "txt_in", None)
    if not isinstance(double, nn.ModuleList) or not isinstance(single, nn.ModuleList):
        return None
    if not hasattr(refiner, "individual_token_refiner") or len(model.patch_size) != 3:
        return None  # of another family, or the model of still images
    named = [(f"double_blocks.{i}", block) for i, block in enumerate(double)]
    named += [(f"single_blocks.{i}", block) for i, block in enumerate(single)]
    owners: dict[nn.Module, tuple[Site, ...]] = {}
    for layer, (name, block) in enumerate(named):
        heads: Any = block.num_heads
        owners[block] = (Site(name, layer, "joint", int(heads)),)
    return Layout(NAME, owners, partial(_grid, model), refiner)


def _grid(model: Any, evaluation: Evaluation, tokens: int) -> TokenGrid:
    frames, rows, cols = in_patches(evaluation.latent, model.patch_size)
    prefix = tokens - frames * rows * cols
    others = prefix - evaluation.prompt - _reference_tokens(model, evaluation)
    start = others if getattr(model, "cond_type_embedding", None) is not None else 0
    return TokenGrid(frames, rows, cols, prefix, text=(start, start + evaluation.prompt))


def _reference_tokens(model: Any, evaluation: Evaluation) -> int:
    reference = evaluation.named.get("ref_latent")
    return 0 if reference is None else math.prod(in_patches(reference.shape, model.patch_size))
