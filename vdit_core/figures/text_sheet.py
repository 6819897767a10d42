"""The sheet of text attention: layers × tokens, the first token's share, the mass on all text."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from torch import Tensor

from .canvas import ACCENT, FAINT, INK, PAPER, Page, text_width
from .colours import ColourScale, span
from .heat_sheet import short
from .legend import BAR, draw_bar, explain, moment_text
from .panels import Moment

_LEFT, _TOP, _BOTTOM = 96, 120, 170
_WIDE, _HIGH = 860, 780  # pixels of the heat map, at most
_BESIDE, _RANGE, _NUMBER = 36, 190, 66
_NUMBERED, _LIGHT = (42, 22), 0.55
_WARM = "#d55e00"
_WORD = 15  # pixels of letters


def draw_sheet(
    moment: Moment,
    layers: Sequence[int],
    shares: Tensor,
    words: Sequence[str],
    even: float,
    first: Tensor,
    mass: Sequence[float],
    own: Sequence[float | None],
) -> Tensor:
    """All in percent. shares: [layers, words]. even: an even share. first: [layers], of token 0.

    mass: of a video query on all text, own: of a text query, or None. Returns [1, h, w, 3].
    """
    cell = _cell(_WIDE, len(words), 96), _cell(_HIGH, len(layers), 56)
    names = [_short_word(word) for word in words]
    top = _TOP + round(max(text_width(name, _WORD) for name in names)) + 30
    wide, high = cell[0] * len(words), cell[1] * len(layers)
    joint = any(value is not None for value in own)
    first_at = _LEFT + wide + _BESIDE
    mass_at = first_at + _RANGE + _NUMBER
    right = max((mass_at + _RANGE + _BESIDE) if joint else mass_at, 860)
    page = Page(right + BAR, top + max(high, 220) + _BOTTOM)
    page.text(_LEFT, 38, "What the prompt's tokens receive", size=32, bold=True)
    page.text(_LEFT, 80, moment_text(moment.header, moment), size=19, colour=FAINT)
    colours = span(shares)
    _draw_cells(page, shares, colours, cell, top)
    _label(page, layers, names, cell, top)
    _draw_first(page, (first_at, top, high), first, even)
    if joint:
        _draw_mass(page, (mass_at, top, high), mass, own)
    draw_bar(page, right, top, min(max(high, 220), 420), colours, "share of the text's mass (%)")
    explain(page, _LEFT, top + max(high, 220) + 60, _words(joint))
    return page.render()


def _words(joint: bool) -> str:
    beside = (
        "Right: how much of the attention of the video (dot) and of the text itself (ring) goes to "
        "the text at all."
        if joint
        else "The text stands outside the video's own attention, in a cross-attention of its own."
    )
    share = "Of all the attention that the video pays to the text, each token's share"
    return f"{share}; orange: the first token's, dotted: an even one. {beside}"


def _cell(room: int, count: int, largest: int) -> int:
    return max(9, min(largest, room // count))


def _short_word(word: str) -> str:
    return word if len(word) <= 16 else word[:15] + "…"


def _draw_cells(
    page: Page, shares: Tensor, colours: ColourScale, cell: tuple[int, int], top: int
) -> None:
    rgb = colours.colours(shares)
    pixels = rgb.repeat_interleave(cell[1], 0).repeat_interleave(cell[0], 1)
    if min(cell) > 12:
        for edge in (pixels[:: cell[1]], pixels[:, :: cell[0]]):
            edge.fill_(1.0)
    axes = page.axes(_LEFT, top, pixels.shape[1], pixels.shape[0])
    axes.imshow(pixels.numpy(), aspect="auto", interpolation="nearest")
    axes.set_axis_off()
    if cell[0] < _NUMBERED[0] or cell[1] < _NUMBERED[1]:
        return
    light = rgb.mean(-1) > _LIGHT
    for row, line in enumerate(shares.tolist()):
        for col, value in enumerate(line):
            x, y = _LEFT + (col + 0.5) * cell[0], top + (row + 0.5) * cell[1]
            ink = INK if bool(light[row, col]) else PAPER
            page.text(x, y, short(value), size=15, colour=ink, align="center")


def _label(
    page: Page, layers: Sequence[int], words: Sequence[str], cell: tuple[int, int], top: int
) -> None:
    """The words above, the first of them marked; the layers at the left."""
    every = -(-(_WORD + 5) // cell[0])
    for n in range(0, len(words), every):
        x = _LEFT + (n + 0.5) * cell[0]
        colour = _WARM if n == 0 else INK
        y = top - 10 - text_width(words[n], _WORD) / 2
        page.text(x, y, words[n], size=_WORD, colour=colour, bold=n == 0, upright=True)
    for n in range(0, len(layers), -(-18 // cell[1])):
        y = top + (n + 0.5) * cell[1]
        page.text(_LEFT - 12, y, f"{layers[n]}", size=16, align="right", colour=FAINT)
    page.text(_LEFT - 62, top + len(layers) * cell[1] / 2, "layer", size=17, upright=True)


def _draw_first(page: Page, place: tuple[int, int, int], first: Tensor, even: float) -> None:
    """The first token's share of each layer; dotted: an even share."""
    x, top, high = place
    axes = _axes(page, place, len(first), max(float(first.max()), 2 * even))
    page.text(x, top - 14, "first token's share (%)", size=16, colour=_WARM)
    axes.axvline(even, color=FAINT, linewidth=1.5, linestyle=":")
    each = high / len(first)
    for row, share in enumerate(first.tolist()):
        axes.plot([share], [row + 0.5], "o", color=_WARM, markersize=min(11, each * 0.6))
        if each >= 14:
            at = x + _RANGE + _NUMBER - 12, top + (row + 0.5) * each
            page.text(*at, short(share), size=min(17, each), align="right")


def _draw_mass(
    page: Page, place: tuple[int, int, int], mass: Sequence[float], own: Sequence[float | None]
) -> None:
    x, top, high = place
    known = [value for value in (*mass, *own) if value is not None]
    axes = _axes(page, place, len(mass), max(known))
    page.text(x, top - 14, "on all text (%)", size=16, colour=FAINT)
    size = min(11, high / len(mass) * 0.6)
    for row, (video, text) in enumerate(zip(mass, own, strict=True)):
        if text is not None:
            axes.plot([text], [row + 0.5], "o", color=INK, markersize=size, markerfacecolor=PAPER)
        axes.plot([video], [row + 0.5], "o", color=ACCENT, markersize=size)


def _axes(page: Page, place: tuple[int, int, int], rows: int, most: float) -> Axes:
    x, top, high = place
    axes = page.axes(x, top, _RANGE, high)
    axes.set_xlim(-0.03 * most, 1.08 * most)
    axes.set_ylim(rows, 0)
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(labelsize=15)
    axes.grid(axis="x", color="#d0d7de", linewidth=1)
    axes.set_axisbelow(True)
    return axes
