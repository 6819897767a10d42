"""What a video is like by itself: steadiness from frame to frame, sharpness, colourfulness."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as nnf

LUMA = (0.299, 0.587, 0.114)  # of R, G and B, ITU-R BT.601
WHITE = 255.0


@dataclass(frozen=True)
class Quality:
    """By frame, [F]; consistency is of a frame and the next, [F − 1]. Units: see the functions."""

    consistency: Tensor
    sharpness: Tensor
    colourfulness: Tensor


def quality_of(video: Tensor) -> Quality:
    """video: [F, H, W, 3] of values 0..1."""
    return Quality(consistency(video), sharpness(video), colourfulness(video))


def consistency(video: Tensor) -> Tensor:
    """1 − mean |x(t+1) − x(t)|, values 0..1: 1 for neighbours that are equal. → [F − 1]

    The *temporal flickering* score of VBench (Huang et al., CVPR 2024, arXiv 2311.17982). It falls
    with flicker and with motion alike.
    """
    return _stack(1 - (y - x).abs().mean(dtype=torch.float64) for x, y in pairwise(video))


def sharpness(video: Tensor) -> Tensor:
    """Variance of the Laplacian (4 neighbours, edges repeated) of luma 0..255. → [F], levels²

    The focus measure LAPV of Pech-Pacheco et al., ICPR 2000. Noise counts as sharpness too.
    """
    weights = torch.tensor(LUMA, dtype=torch.float64)
    return _each(
        video, lambda frame: _laplacian(WHITE * frame.double() @ weights).var(correction=0)
    )


def colourfulness(video: Tensor) -> Tensor:
    """√(σ²rg + σ²yb) + 0.3 √(µ²rg + µ²yb), rg = R − G, yb = (R + G) / 2 − B, of 0..255. → [F]

    M̂⁽³⁾ of Hasler and Süsstrunk, *Measuring colourfulness in natural images*, SPIE 2003. 0 is grey;
    there 15 is called slightly, 45 averagely, 82 highly colourful.
    """
    return _each(video, _frame_colourfulness)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Of features [F, D] and [F, D] or [1, D], row by row. → [F], 1 for those of one direction"""
    return nnf.cosine_similarity(x.double(), y.double(), dim=-1)


def _laplacian(luma: Tensor) -> Tensor:
    """[H, W] → [H, W]"""
    wide = nnf.pad(luma[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    around = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
    return around - 4 * luma


def _frame_colourfulness(frame: Tensor) -> Tensor:
    red, green, blue = (WHITE * frame.double()).unbind(-1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue])  # [2, H, W]
    variance, mean = torch.var_mean(opponents, dim=(1, 2), correction=0)
    return variance.sum().sqrt() + 0.3 * mean.square().sum().sqrt()


def _each(video: Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """One frame at a time: videos are large."""
    return _stack(measure(frame) for frame in video)


def _stack(values: Iterable[Tensor]) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)
