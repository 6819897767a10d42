"""A sweep: one filmstrip per setting, with its label."""

from __future__ import annotations

from torch import Tensor

from .canvas import Page, text_width
from .pictures import colours_of, evenly, fit

_MARGIN, _LABEL, _GAP = 24, 34, 8
_STRIP, _FRAMES = 1240, 6


def sweep_grid(videos: list[Tensor], labels: list[str]) -> Tensor:
    """Draw videos, each [F, H, W, 3] of values 0..1, below each other, [1, h, w, 3]."""
    if not videos or len(videos) != len(labels):
        raise ValueError(
            f"sweep: got {len(videos)} videos and {len(labels)} labels; give one label per video, "
            "and at least one video"
        )
    videos = [colours_of(video, label) for video, label in zip(videos, labels, strict=True)]
    if len({video.shape for video in videos}) > 1:
        sizes = ", ".join(f"{v.shape[0]} × {v.shape[1]} × {v.shape[2]}" for v in videos)
        raise ValueError(f"sweep: all videos must have one length and size, these have {sizes}")
    shown = evenly(len(videos[0]), _FRAMES)
    strips = [fit(video[shown], min(400, _STRIP // len(shown) - _GAP)) for video in videos]
    high, wide = strips[0].shape[1] + _GAP, strips[0].shape[2] + _GAP
    left = _MARGIN + round(max(text_width(label, 20) for label in labels)) + 20
    page = Page(left + len(shown) * wide + _MARGIN - _GAP, _LABEL + len(videos) * high + _MARGIN)
    for n, frame in enumerate(shown):
        x = left + n * wide + (wide - _GAP) / 2
        page.text(x, _LABEL / 2 + 4, f"frame {frame}", size=16, align="center")
    for row, (label, strip) in enumerate(zip(labels, strips, strict=True)):
        y = _LABEL + _GAP + row * high
        page.text(left - 20, y + high / 2, label, size=20, align="right")
        for n, picture in enumerate(strip):
            page.picture(left + n * wide, y, picture)
    return page.render()
