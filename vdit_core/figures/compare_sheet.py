"""The sheet of a comparison: frames of both videos, their difference, curves over the frames."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from torch import Tensor

from .canvas import ACCENT, FAINT, Page
from .judging import Judged
from .pictures import evenly, fit
from .quality_curves import HEIGHT, draw_qualities, framed, least_width
from .scores import PSNR_CAP, Scores

_LEFT, _TOP, _LABEL, _GAP, _PLOT, _BETWEEN = 140, 96, 32, 8, 170, 100
_STRIP = 1240  # pixels that the frames of a row take up together, at most
_FRAMES = 6
_FACTORS = (64, 32, 16, 8, 4, 2)
_WARM = "#d55e00"


def draw_comparison(judged: Judged) -> Tensor:
    """Returns [1, h, w, 3]."""
    a, b, scores = judged.a.video, judged.b.video, judged.scores
    shown = evenly(len(a), _FRAMES)
    difference = (a[shown] - b[shown]).abs()
    factor = _amplification(difference)
    width = min(400, _STRIP // len(shown) - _GAP)
    strips = [fit(x, width) for x in (a[shown], b[shown], (difference * factor).clamp(0, 1))]
    high, wide = strips[0].shape[1] + _GAP, strips[0].shape[2] + _GAP
    right = _LEFT + max(len(shown) * wide - _GAP, least_width(judged))
    bottom = _TOP + _LABEL + 3 * high
    page = Page(right + 32, bottom + _PLOT + 122 + HEIGHT)
    page.text(32, 40, _headline(scores), size=28, bold=True)
    page.text(32, 76, _subline(a, scores), size=18, colour=FAINT)
    for n, frame in enumerate(shown):
        x = _LEFT + n * wide
        page.text(x + (wide - _GAP) / 2, _TOP + 14, f"frame {frame}", size=17, align="center")
        for row, strip in enumerate(strips):
            page.picture(x, _TOP + _LABEL + row * high, strip[n])
    for row, name in enumerate(("a", "b", "|a − b|")):
        y = _TOP + _LABEL + (row + 0.5) * high
        page.text(_LEFT - 20, y, name, size=24, bold=True, align="right")
    page.text(_LEFT - 20, _TOP + _LABEL + 2.5 * high + 28, f"× {factor}", size=19, align="right")
    _plots(page, bottom + 44, (right - _LEFT - _BETWEEN) / 2, scores)
    draw_qualities(page, _LEFT, bottom + 44 + _PLOT + 80, right - _LEFT, judged)
    return page.render()


def _headline(scores: Scores) -> str:
    if bool(scores.identical.all()):
        return f"Identical videos (PSNR infinite, given as {PSNR_CAP:g} dB)"
    return f"PSNR {scores.psnr:.1f} dB, SSIM {scores.ssim:.3f}"


def _subline(a: Tensor, scores: Scores) -> str:
    frames, height, width, _ = a.shape
    same = int(scores.identical.sum())
    words = f"{frames} frames of {width} × {height} pixels"
    return f"{words}, {same} of them identical" if same else words


def _amplification(difference: Tensor) -> int:
    """The largest power of two up to 64 at which at most one value in a thousand is cut off."""
    values = difference.flatten()
    high = float(values.kthvalue(len(values) - len(values) // 1000).values)
    return next((factor for factor in _FACTORS if 0 < high * factor <= 1), 1)


def _plots(page: Page, y: float, width: float, scores: Scores) -> None:
    same = scores.identical
    psnr, ssim = scores.frame_psnr, scores.frame_ssim
    _plot(page, (_LEFT, y, width), "PSNR per frame (dB)", psnr, same, 1.0)
    _plot(page, (_LEFT + width + _BETWEEN, y, width), "SSIM per frame", ssim, same, 0.02)


def _plot(
    page: Page,
    place: tuple[float, float, float],
    title: str,
    values: Tensor,
    same: Tensor,
    span: float,
) -> None:
    """A curve over the frames, at least `span` high; identical frames are marks above it."""
    x, y, width = place
    axes = framed(page, (x, y, width, _PLOT), title, len(values))
    _draw_curve(axes, values, ~same, span)
    if bool(same.any()):
        page.text(x + width, y - 18, "▲ identical", size=17, colour=_WARM, align="right")
        _draw_marks(axes, same)


def _draw_curve(axes: Axes, values: Tensor, differs: Tensor, span: float) -> None:
    frames, curve = differs.nonzero()[:, 0], values[differs]
    if not len(curve):
        axes.set_yticks([])
        return
    middle, height = float(curve.max() + curve.min()) / 2, float(curve.max() - curve.min())
    half = max(span, height) * 0.6
    room = 1 if bool(differs.all()) else 1.4  # for the marks
    axes.set_ylim(middle - half, middle + half * room)
    style: dict[str, Any] = {"color": ACCENT, "linewidth": 2, "marker": "o", "markersize": 6}
    axes.plot(frames.tolist(), curve.tolist(), **style)


def _draw_marks(axes: Axes, same: Tensor) -> None:
    frames = same.nonzero()[:, 0].tolist()
    across = axes.get_xaxis_transform()  # heights as shares of the axes
    axes.plot(frames, [0.9] * len(frames), "^", color=_WARM, markersize=10, transform=across)
