"""The sheet of a comparison: frames of both videos, their difference, curves over the frames."""

from __future__ import annotations

from torch import Tensor

from .canvas import ACCENT, FAINT, Page
from .pictures import evenly, fit
from .scores import Scores

_LEFT, _TOP, _LABEL, _GAP, _PLOT = 120, 96, 30, 8, 170
_STRIP = 1160  # pixels all frames of a row take up together, nearly
_FRAMES = 6
_FACTORS = (64, 32, 16, 8, 4, 2, 1)


def draw_comparison(a: Tensor, b: Tensor, scores: Scores) -> Tensor:
    """a, b: [F, H, W, 3] of values 0..1. Returns [1, h, w, 3]."""
    shown = evenly(len(a), _FRAMES)
    difference = (a - b).abs()
    factor = _amplification(difference)
    width = min(400, _STRIP // len(shown)) - _GAP
    strips = [fit(video[shown], width) for video in (a, b, (difference * factor).clamp(0, 1))]
    high, wide = strips[0].shape[1] + _GAP, strips[0].shape[2] + _GAP
    right = max(_LEFT + len(shown) * wide, 900)
    page = Page(right + 32, _TOP + _LABEL + 3 * high + _PLOT + 140)
    page.text(32, 40, headline(scores), size=28, bold=True)
    page.text(32, 78, _subline(a, scores), size=18, colour=FAINT)
    for row, (name, strip) in enumerate(zip(("a", "b", "|a − b|"), strips, strict=True)):
        y = _TOP + _LABEL + row * high
        page.text(_LEFT - 20, y + high / 2, name, size=24, bold=True, align="right")
        for n, picture in enumerate(strip):
            page.picture(_LEFT + n * wide, y, picture)
    for n, frame in enumerate(shown):
        x = _LEFT + n * wide + (wide - _GAP) / 2
        page.text(x, _TOP + _LABEL / 2, f"frame {frame}", size=17, align="center")
    if factor > 1:
        y = _TOP + _LABEL + 2 * high + high / 2 + 26
        page.text(_LEFT - 20, y, f"× {factor}", size=19, align="right")
    _plots(page, _TOP + _LABEL + 3 * high + 50, right, scores)
    return page.render()


def headline(scores: Scores) -> str:
    if bool(scores.identical.all()):
        return "Identical videos"
    return f"PSNR {scores.psnr:.1f} dB, SSIM {scores.ssim:.3f}"


def _subline(a: Tensor, scores: Scores) -> str:
    frames, height, width, _ = a.shape
    same = int(scores.identical.sum())
    words = f"{frames} frames of {width} × {height} pixels"
    return f"{words}, {same} of them identical" if same else words


def _amplification(difference: Tensor) -> int:
    """The largest power of two up to 64 that leaves the difference within 0..1."""
    peak = float(difference.max())
    return next(factor for factor in _FACTORS if peak * factor <= 1 or factor == 1) if peak else 1


def _plots(page: Page, y: int, right: int, scores: Scores) -> None:
    width = (right - _LEFT - 90) / 2
    _plot(page, (_LEFT, y, width), "PSNR per frame (dB)", scores.frame_psnr, scores.identical)
    x = _LEFT + width + 90
    _plot(page, (x, y, width), "SSIM per frame", scores.frame_ssim, scores.identical)


def _plot(
    page: Page, place: tuple[float, float, float], title: str, values: Tensor, same: Tensor
) -> None:
    """A curve over the frames; identical ones are marks at the upper edge."""
    x, y, width = place
    axes = page.axes(x, y, width, _PLOT)
    page.text(x, y - 18, title, size=18)
    page.text(x + width, y + _PLOT + 48, "frame", size=17, align="right")
    frames = [n for n in range(len(values)) if not same[n]]
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.grid(axis="y", color="#d0d7de", linewidth=1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.plot(frames, values[frames], color=ACCENT, linewidth=2, marker="o", markersize=6)
    axes.margins(y=0.15)
    axes.tick_params(labelsize=16)
    equal = same.nonzero()[:, 0].tolist()
    if equal:
        top = axes.get_ylim()[1]
        axes.plot(equal, [top] * len(equal), "^", color="#d55e00", markersize=10, clip_on=False)
        page.text(x + width, y - 18, "▲ identical", size=16, colour="#d55e00", align="right")
        axes.set_ylim(top=top)
