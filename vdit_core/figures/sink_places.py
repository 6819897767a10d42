"""Where sinks lie: a heat map of their places in the picture, and how many in each frame."""

from __future__ import annotations

from collections import Counter

from matplotlib.axes import Axes
from torch import Tensor

from ..sinks import Sinks, heat_of_places
from .canvas import ACCENT, FAINT, Page
from .colours import ColourScale
from .legend import BAR, draw_bar, explain

_LEFT, _TOP, _BOTTOM, _GAP = 96, 158, 170, 150
_WIDE, _HIGH, _PLOT = 560, 420, 460  # pixels of the picture, at most; of the histogram
_TEXT = "#e69f00"  # orange of the Okabe–Ito colours


def draw_places(sinks: Sinks, below: str) -> Tensor:
    """below: the line under the title. Returns [1, h, w, 3]."""
    picture, by_frame = heat_of_places(sinks)
    cell = max(4, min(_WIDE // picture.shape[1], _HIGH // picture.shape[0]))
    high, wide = (n * cell for n in picture.shape)
    right = _LEFT + wide + BAR + _GAP
    tall = max(high, 300)
    page = Page(right + _PLOT + 40, _TOP + tall + _BOTTOM)
    page.text(_LEFT, 38, "Where the sinks lie", size=32, bold=True)
    page.text(_LEFT, 80, below, size=19, colour=FAINT)
    page.text(_LEFT, _TOP - 24, "in the picture, over all frames", size=19)
    colours = ColourScale(0, max(1.0, float(picture.max())), log=False, clipped=False)
    pixels = colours.colours(picture.double())
    page.picture(_LEFT, _TOP, pixels.repeat_interleave(cell, 0).repeat_interleave(cell, 1))
    _label_picture(page.axes(_LEFT, _TOP, wide, high), picture)
    page.text(_LEFT + wide / 2, _TOP + high + 44, "column (tokens)", size=17, align="center")
    page.text(_LEFT - 62, _TOP + high / 2, "row (tokens)", size=17, upright=True)
    draw_bar(page, _LEFT + wide + 24, _TOP, high, colours, "sinks at the place")
    page.text(right, _TOP - 24, "by latent frame", size=19)
    kinds = Counter(s.place.kind for s in sinks.seen)
    _draw_frames(page.axes(right, _TOP, _PLOT, tall), by_frame, kinds, len(sinks.seen))
    page.text(
        right + _PLOT / 2, _TOP + tall + 44, "latent frame of the sink", size=17, align="center"
    )
    page.text(right - 70, _TOP + tall / 2, "share of the sinks (%)", size=17, upright=True)
    explain(page, _LEFT, _TOP + tall + 96, _words(sinks, kinds, int(picture.sum())))
    return page.render()


def _label_picture(axes: Axes, picture: Tensor) -> None:
    rows, cols = picture.shape
    axes.set_xlim(-0.5, cols - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.locator_params(integer=True, nbins=6)
    axes.tick_params(labelsize=16)


def _draw_frames(axes: Axes, by_frame: Tensor, kinds: Counter[str], count: int) -> None:
    """Bars of the frames; text and other tokens, which are in no frame, at the right."""
    shares = (100 * by_frame.double() / max(1, count)).tolist()
    frames = len(shares)
    axes.bar(range(frames), shares, color=ACCENT, width=0.8)
    outside = [kind for kind in ("text", "other") if kinds[kind]]
    places = [frames + 1 + n for n in range(len(outside))]
    beside = [100 * kinds[kind] / count for kind in outside]
    axes.bar(places, beside, color=_TEXT, width=0.8)
    every = -(-frames // 10)
    ticks = [*range(0, frames, every), *places]
    axes.set_xticks(ticks, [*map(str, range(0, frames, every)), *outside], fontsize=16)
    axes.set_xlim(-0.8, (places[-1] if places else frames - 1) + 0.8)
    axes.set_ylim(0, 1.08 * max([*shares, *beside, 1.0]))
    axes.grid(axis="y", color="#d0d7de", linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", labelsize=16)


def _words(sinks: Sinks, kinds: Counter[str], shown: int) -> str:
    count = len(sinks.seen)
    if not count:
        return "No head is a sink in any of these calls."
    words = f"{count} times a head is a sink: {kinds['video']} at a token of the video"
    if kinds["text"]:
        numbers = Counter(s.place.number for s in sinks.seen if s.place.kind == "text")
        (most, times), *_ = numbers.most_common(1)
        words += f", {kinds['text']} at the prompt ({times} at its token {most})"
    if kinds["other"]:
        words += f", {kinds['other']} at tokens of neither"
    if shown < kinds["video"]:
        words += f". {kinds['video'] - shown} in areas of another size are not drawn"
    return words + "."
