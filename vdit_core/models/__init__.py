"""Model families: one small file each. A family finds its sites in a module tree, by structure."""

from __future__ import annotations

from torch import nn

from ..sites import Layout
from . import cogvideox, hunyuan_video, ltx_video, mochi, wan

FAMILIES = (wan, mochi, hunyuan_video, cogvideox, ltx_video)


def find_layout(model: nn.Module) -> Layout:
    """The layout of a diffusion model. Raises ValueError for a family nobody has taught us."""
    for family in FAMILIES:
        if layout := family.find(model):
            return layout
    known = ", ".join(family.NAME for family in FAMILIES)
    raise ValueError(
        f"model: {type(model).__name__} is of no family this pack knows ({known}); "
        "load one of those, or open an issue with the model's name"
    )
