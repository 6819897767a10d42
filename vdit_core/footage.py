"""Real footage: a loaded video that stands in for a pair's source, and where it may be edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool3d

from .grid import TokenGrid


@dataclass(frozen=True, eq=False)
class Footage:
    """latent: as the VAE gave it, [B, C, F, H, W], one video or one for each pair.

    own: in 0..1 how much of each place may change, [F, H, W]; None for everything.
    """

    latent: Tensor
    own: Tensor | None = None

    def equals(self, other: Footage) -> bool:
        return _equal(self.latent, other.latent) and _equal(self.own, other.own)


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def read_mask(mask: Tensor, latent: Sequence[int], each: int) -> Tensor | None:
    """The share of each place of a latent [..., F, H, W] that is drawn, [F, H, W]; None: all of it.

    mask: [N, h, w] in 0..1, one for each frame of the video or one for all. each: video frames in a
    latent frame; the first latent frame is of the first video frame alone.
    """
    frames, rows, cols = latent[-3:]
    if mask.ndim != 3 or not _fits(len(mask), frames, each):
        got = f"{len(mask)} frames" if mask.ndim == 3 else f"shape {tuple(mask.shape)}"
        wanted = 1 + (frames - 1) * each
        raise ValueError(
            f"mask: it has {got}, but the video has {wanted}; give one mask for each frame, or a "
            "single one for all"
        )
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("mask: it holds values outside of 0 to 1; 1 is drawn, 0 is not")
    if not bool(mask.any()):
        raise ValueError(
            "mask: nothing is drawn in it, so nothing may change; draw where the edit may happen, "
            "or leave the input open to edit everywhere"
        )
    if bool((mask == 1).all()):
        return None
    small = adaptive_avg_pool2d(mask.float(), (rows, cols))  # [N, H, W]
    if len(mask) == 1:
        return small.expand(frames, -1, -1)
    later = small[1 : 1 + (frames - 1) * each].unflatten(0, (-1, each))
    return torch.cat([small[:1], later.mean(1)])


def _fits(count: int, frames: int, each: int) -> bool:
    """Whether so many video frames make so many latent ones; what is left over, VAEs drop."""
    return count == 1 or 1 + (count - 1) // each == frames


def on_tokens(own: Tensor, grid: TokenGrid) -> Tensor:
    """Shares of the places of a latent [F, H, W] as shares of the tokens, [L]; of others 1."""
    sizes = zip(own.shape, (grid.frames, grid.rows, grid.cols), strict=True)
    patch = [-(-size // tokens) for size, tokens in sizes]
    pooled = avg_pool3d(own[None].float(), patch, patch, ceil_mode=True)[0]
    shares = torch.ones(len(grid))
    shares[grid.video] = pooled.flatten()
    return shares
