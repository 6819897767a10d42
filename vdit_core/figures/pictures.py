"""Frames of a video as pictures of a given width."""

from __future__ import annotations

import torch
from kornia.geometry.transform import resize
from torch import Tensor


def evenly(count: int, most: int) -> list[int]:
    """Up to `most` of `count` indices, evenly spread, with the first and the last."""
    if count <= most:
        return list(range(count))
    return torch.linspace(0, count - 1, most).round().int().tolist()


def fit(video: Tensor, width: int) -> Tensor:
    """[F, H, W, 3] → [F, h, w, 3] with w near width: small pictures in whole pixels, unblurred."""
    factor = width // video.shape[2]
    if factor >= 1:
        return video.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    height = max(1, round(video.shape[1] * width / video.shape[2]))
    small = resize(video.movedim(-1, 1), (height, width), antialias=True)
    return small.movedim(1, -1).clamp(0, 1)


def colours_of(video: Tensor, name: str) -> Tensor:
    """An IMAGE batch as [F, H, W, 3] float32 on the CPU, 0..1.

    name: of the input, for the ValueError that another shape, or NaN, raises.
    """
    if video.ndim != 4 or video.shape[-1] < 3 or not len(video):
        raise ValueError(
            f"{name}: got a tensor of shape {tuple(video.shape)}, but a video is frames × height × "
            "width × 3 colours; connect the IMAGE output of VAE Decode"
        )
    if not bool(video.isfinite().all()):
        raise ValueError(f"{name}: the video holds NaN or infinity; look at what made it")
    return video[..., :3].detach().float().cpu().clamp(0, 1)
