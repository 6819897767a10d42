"""Two videos side by side: what differs, where and how much."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .compare_sheet import draw_comparison
from .pictures import colours_of
from .scores import PSNR_CAP, Scores, score
from .table import Table


@dataclass(frozen=True)
class Comparison:
    """image: [1, H, W, 3] float 0..1. report: as text. psnr: dB. ssim: up to 1. table: by frame."""

    image: Tensor
    report: str
    psnr: float
    ssim: float
    table: Table


def compare_videos(a: Tensor, b: Tensor) -> Comparison:
    """Compare two videos [F, H, W, 3] of values 0..1. Raises ValueError if they are not alike."""
    a, b = colours_of(a, "a"), colours_of(b, "b")
    if a.shape != b.shape:
        raise ValueError(
            f"compare videos: a has {_size(a)}, b has {_size(b)}, but they must be the same; cut "
            "the longer one with Get Image from Batch, resize with Upscale Image, or sample both "
            "from latents of the same size"
        )
    scores = score(a, b)
    image = draw_comparison(a, b, scores)
    return Comparison(image, _report(a, scores), scores.psnr, scores.ssim, _table(scores))


def _table(scores: Scores) -> Table:
    columns = scores.frame_psnr, scores.frame_ssim, 255 * scores.difference, 255 * scores.peak
    rows = zip(*(column.tolist() for column in columns), strict=True)
    names = "frame", "PSNR (dB)", "SSIM", "mean |a − b| (of 255)", "largest |a − b| (of 255)"
    return Table(names, [[frame, *row] for frame, row in enumerate(rows)])


def _report(a: Tensor, scores: Scores) -> str:
    worst_psnr, worst_ssim = int(scores.frame_psnr.argmin()), int(scores.frame_ssim.argmin())
    most, top = int(scores.difference.argmax()), int(scores.peak.argmax())
    same = int(scores.identical.sum())
    lines = [
        f"a and b: {_size(a)}",
        "",
        f"{'':24}{'video':>9}{'worst':>9}{'at frame':>10}",
        _row("PSNR (dB)", scores.psnr, scores.frame_psnr[worst_psnr], worst_psnr, 2),
        _row("SSIM (1 = alike)", scores.ssim, scores.frame_ssim[worst_ssim], worst_ssim, 4),
        _row(
            "mean |a − b| (of 255)",
            255 * scores.difference.mean(),
            255 * scores.difference[most],
            most,
            2,
        ),
        _row("largest |a − b| (of 255)", 255 * scores.peak.max(), 255 * scores.peak[top], top, 0),
        f"{'identical frames':24}{same:>5} of {len(a)}",
        "",
        "PSNR of the video: from the mean squared error over all frames. SSIM: mean over frames.",
    ]
    if same:
        lines.append(f"Identical pictures have an infinite PSNR; it is given as {PSNR_CAP:g} dB.")
    return "\n".join(lines)


def _row(name: str, video: float | Tensor, worst: float | Tensor, frame: int, digits: int) -> str:
    return f"{name:24}{float(video):>9.{digits}f}{float(worst):>9.{digits}f}{frame:>10}"


def _size(video: Tensor) -> str:
    frames, height, width, _ = video.shape
    return f"{frames} frames of {width} × {height} pixels"
