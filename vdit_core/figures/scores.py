"""How alike two videos are: PSNR, SSIM and plain differences, frame by frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from kornia.metrics import ssim as kornia_ssim
from torch import Tensor

PSNR_CAP = 100.0  # dB, stands for the infinite PSNR of identical pictures
_WINDOW = 11  # pixels, as in the paper that defines SSIM


@dataclass(frozen=True)
class Scores:
    """psnr (dB), ssim (up to 1): of the whole video. The others are one number per frame, [F].

    difference: mean |a − b|, peak: largest |a − b|, of values 0..1.
    """

    psnr: float
    ssim: float
    frame_psnr: Tensor
    frame_ssim: Tensor
    difference: Tensor
    peak: Tensor

    @property
    def identical(self) -> Tensor:
        """Frames without any difference, [F] bool."""
        return self.peak == 0


def score(a: Tensor, b: Tensor) -> Scores:
    """Compare videos [F, H, W, 3] of values 0..1.

    PSNR of the video comes from the mean squared error of all frames, SSIM is the mean of frames.
    """
    rows = [_score_frame(x, y) for x, y in zip(a, b, strict=True)]  # one by one: videos are large
    error, likeness, difference, peak = torch.tensor(rows, dtype=torch.float64).unbind(1)
    decibels = torch.tensor([_decibel(float(e)) for e in error])
    psnr, ssim = _decibel(float(error.mean())), float(likeness.mean())
    return Scores(psnr, ssim, decibels, likeness, difference, peak)


def _score_frame(a: Tensor, b: Tensor) -> tuple[float, float, float, float]:
    """Squared error, SSIM, mean and largest |a − b| of [H, W, 3]."""
    distance = (a - b).abs()
    error = float(distance.square().mean(dtype=torch.float64))
    return error, _ssim(a, b), float(distance.mean()), float(distance.max())


def _ssim(a: Tensor, b: Tensor) -> float:
    """Mean structural similarity of [H, W, 3]; small pictures get a smaller window."""
    shortest = min(_WINDOW, *a.shape[:2])
    window = shortest - 1 + shortest % 2
    a, b = (x.movedim(-1, 0)[None] for x in (a, b))
    return float(kornia_ssim(a, b, window, padding="valid").mean())


def _decibel(error: float) -> float:
    return PSNR_CAP if error == 0 else min(PSNR_CAP, -10 * math.log10(error))
