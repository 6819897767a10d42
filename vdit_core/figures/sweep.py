"""A sweep: one filmstrip per setting, with its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .canvas import FAINT, Page, text_width
from .pictures import colours_of, evenly, fit

_MARGIN, _LABEL, _GAP = 24, 34, 8
_STRIP, _FRAMES, _MOST = 1240, 6, 12  # pixels of the pictures, frames, rows in a column
_LOWEST = 46  # pixels of a row that has a note below its label


@dataclass(frozen=True)
class Row:
    """video: [F, H, W, 3] of values 0..1. note: a fainter line below the label."""

    video: Tensor
    label: str
    note: str = ""


def sweep_grid(rows: Sequence[Row]) -> Tensor:
    """Draw videos of one length and size below each other, [1, h, w, 3]."""
    if not rows:
        raise ValueError("sweep: got no video; give at least one")
    if len({row.video.shape[:3] for row in rows}) > 1:
        sizes = ", ".join(" × ".join(map(str, row.video.shape[:3])) for row in rows)
        raise ValueError(f"sweep: all videos must have one length and size, these have {sizes}")
    beside = -(-len(rows) // _MOST)  # columns of strips
    each = -(-len(rows) // beside)  # rows in a column
    shown = evenly(len(rows[0].video), max(2, _FRAMES // beside))
    width = min(400, _STRIP // (beside * len(shown)) - _GAP)
    strips = [fit(colours_of(row.video, row.label)[shown], width) for row in rows]
    high, wide = max(strips[0].shape[1] + _GAP, _LOWEST), strips[0].shape[2] + _GAP
    words = [(row.label, 20) for row in rows] + [(row.note, 16) for row in rows if row.note]
    left = _MARGIN + round(max(text_width(*word) for word in words)) + 20
    column = left + len(shown) * wide + _MARGIN - _GAP
    page = Page(beside * column, _LABEL + each * high + _MARGIN)
    for n in range(beside * len(shown)):
        x = left + n // len(shown) * column + n % len(shown) * wide + (wide - _GAP) / 2
        page.text(x, _LABEL / 2 + 4, f"frame {shown[n % len(shown)]}", size=16, align="center")
    for n, (row, strip) in enumerate(zip(rows, strips, strict=True)):
        at = n // each * column + left, _LABEL + _GAP + n % each * high
        _draw_row(page, row, strip, *at)
    return page.render()


def _draw_row(page: Page, row: Row, strip: Tensor, left: int, y: int) -> None:
    """The label, and the note below it, beside the pictures."""
    frames, high, wide = strip.shape[:3]
    middle, apart = y + high / 2, 13 if row.note else 0
    page.text(left - 20, middle - apart, row.label, size=20, align="right")
    page.text(left - 20, middle + apart, row.note, size=16, align="right", colour=FAINT)
    for n in range(frames):
        page.picture(left + n * (wide + _GAP), y, strip[n])
