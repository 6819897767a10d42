"""What stands around the maps: the words of a title, the colour bar."""

from __future__ import annotations

from textwrap import wrap

from ..record import Header
from .canvas import Page
from .colours import ColourScale
from .panels import Moment, Panel

BAR = 130  # pixels to the right of a map that the colour bar and its words need
_LINE = 96  # letters


def heads_text(panel: Panel) -> str:
    return f"head {panel.head}" if panel.head != "mean" else f"mean of {panel.heads} heads"


def moment_text(header: Header, moment: Moment) -> str:
    """One line: step, noise level, branch and what it is given, model."""
    last = header.steps - 1
    video = f" · video {moment.item}" if moment.videos > 1 else ""
    when = f"step {moment.step} (of 0 to {last}), σ {moment.sigma:.3g}"
    others = moment.prompts - 1
    prompt = f" · prompt {moment.prompt} (of 0 to {others})" if others else ""
    excerpt = f" · {moment.excerpt}" if moment.excerpt else ""
    return f"{when} · {moment.branch}{prompt}{video}{excerpt} · {header.model}"


def has_others(header: Header) -> bool:
    """Whether the map's frames are not all that is looked at: other frames, text, references."""
    return len(header.map_grid) > header.map_grid.video_tokens


def others_text(header: Header) -> str:
    """What the strip beside a map counts."""
    return "not video" if header.window is None else "elsewhere"


def size_text(header: Header) -> str:
    """Which frames the map shows, and their size in tokens."""
    grid = header.grid
    if header.window is None:
        return f"{grid.frames} frames of {grid.rows} × {grid.cols} tokens"
    first, last = header.window
    names = f"frames {first} to {last}" if last > first else f"frame {first}"
    return f"{names} of {grid.frames}, {grid.rows} × {grid.cols} tokens each"


def plain(value: float) -> str:
    """A round number on an axis."""
    return f"{value:g}".replace("-", "−")


def explain(page: Page, x: int, y: int, words: str) -> None:
    """What a picture shows, below it, in as many lines as it takes."""
    for line in wrap(words, _LINE):
        page.text(x, y, line, size=17)
        y += 28


def draw_bar(
    page: Page,
    x: int,
    y: int,
    height: int,
    colours: ColourScale,
    words: str = "weight × keys (1 = looks everywhere alike)",
) -> None:
    """The colour bar with its values and, beside it, what they mean."""
    axes = page.axes(x, y, 24, height)
    axes.set_yscale("log" if colours.log else "linear")
    axes.set_ylim(colours.low, colours.high)
    axes.set_xticks([])
    axes.yaxis.tick_right()
    ticks = colours.ticks()
    axes.set_yticks(ticks, [plain(value) for value in ticks], fontsize=16)
    axes.set_yticks([], minor=True)
    page.picture(x, y, colours.ramp(24, height))
    if colours.clipped:
        page.text(x, y + height + 16, "or less", size=14)
    page.text(x + 96, y + height / 2, words, size=16, upright=True)
