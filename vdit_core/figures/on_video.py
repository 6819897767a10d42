"""On the video itself: which places are looked at, and which look widely."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from kornia.color import rgb_to_grayscale
from kornia.geometry.transform import resize
from torch import Tensor

from ..grid import TokenGrid
from ..record import Header, Measurement, RecordData
from .canvas import FAINT, Page
from .colours import ColourScale, choose_scale, span
from .legend import BAR, draw_bar, explain, moment_text
from .panels import Chosen, Moment, choose_heads
from .pictures import evenly, fit
from .statistics import Statistics
from .table import Cell, Table

_LEFT, _TOP, _GAP, _BOTTOM = 140, 132, 8, 110
_STRIP, _FRAMES, _ROWS = 1100, 6, 8  # pixels of a row; frames and rows at most
_OPAQUE = 0.8  # of the colours over a grey frame: the video shows, the colour can still be read


@dataclass(frozen=True)
class Strips:
    """What is said around strips of frames. unit: of the numbers. log: they are ratios."""

    title: str
    unit: str
    words: str
    log: bool


@dataclass(frozen=True)
class OnVideo(Strips):
    """A number per video token. needs: the measure it comes from."""

    needs: str

    def values(self, m: Measurement, at: list[int], header: Header) -> Tensor:
        """Of some heads of a call, their mean, on the video's tokens [F, R, C]."""
        grid = header.grid
        numbers: Tensor = getattr(m.measures, self.needs)[at].double().mean(0)
        if self.needs == "entropy_rows":
            numbers = 100 * numbers / math.log(max(2, len(grid)))
        return numbers[grid.video].unflatten(0, (grid.frames, grid.rows, grid.cols))


SHOWN = {
    "looked at": OnVideo(
        "Which places are looked at",
        "column sum (1 = an even share)",
        "How much attention each place receives, summed over all that look: 1 is an even share, 2 "
        "twice that.",
        True,
        "column_sums",
    ),
    "looks widely": OnVideo(
        "Which places look widely",
        "entropy share (%)",
        "The entropy of each place's own attention as a share of the largest possible: 100 % looks "
        "everywhere alike, 0 % at one token.",
        False,
        "entropy_rows",
    ),
}


def draw_on_video(data: RecordData, view: str, chosen: Chosen, video: Tensor | None) -> Statistics:
    """A strip of frames for each layer and head that was chosen, coloured by SHOWN[view].

    video: [N, H, W, 3] of values 0..1; without it the frames are of the latent, in colours alone.
    """
    asked = SHOWN[view]
    moment, found = chosen.calls(data)
    strips: list[tuple[str, Tensor]] = []
    rows: list[list[Cell]] = []
    lines: list[list[Cell]] = []
    for m in found:
        if getattr(m.measures, asked.needs) is None:
            raise ValueError(
                f"view: {view!r} needs a number per token, which was not captured; turn on sinks "
                "on VDiT Capture and sample again"
            )
        for name, at in choose_heads(data, m, chosen.head):
            values = asked.values(m, at, data.header_of(m))
            label = f"layer {m.layer}" if name == "mean" else f"L{m.layer} H{name}"
            strips.append((label, values))
            lines.append([label, *_summary(values)])
            labels: list[Cell] = [moment.item, moment.step, moment.branch, m.layer, name]
            places = torch.cartesian_prod(*map(torch.arange, values.shape)).tolist()
            numbers = values.flatten().tolist()
            rows += [[*labels, *place, x] for place, x in zip(places, numbers, strict=True)]
    columns = ["video", "step", "branch", "layer", "head", "frame", "row", "col", asked.unit]
    names = ["", "least", "median", "largest", "at frame", "row", "col", "first frame's mean"]
    head = f"{asked.title}: {asked.unit}\n{moment_text(moment.header, moment)}\n\n"
    image = draw_strips(moment, asked, strips, video)
    return Statistics(image, head + Table(names, lines).text(), Table(columns, rows))


def _summary(values: Tensor) -> list[Cell]:
    flat = values.flatten()
    place = torch.unravel_index(flat.argmax(), values.shape)
    spread = [float(x) for x in (flat.min(), flat.median(), flat.max())]
    return [*spread, *(int(x) for x in place), float(values[0].mean())]


def draw_strips(
    moment: Moment, asked: Strips, strips: list[tuple[str, Tensor]], video: Tensor | None
) -> Tensor:
    """strips: a name, and a number for each of the video's tokens [F, R, C]. video: as above.

    Returns [1, h, w, 3].
    """
    grid = moment.header.grid
    frames, rows = evenly(grid.frames, _FRAMES), evenly(len(strips), _ROWS)
    width = min(260, _STRIP // len(frames) - _GAP)
    backs = _backgrounds(moment, frames, video, width)
    tall, wide = backs.shape[1] + _GAP, backs.shape[2] + _GAP
    values = torch.stack([v for _, v in strips])
    colours = choose_scale([values], "log") if asked.log else span(values)
    first = int(video is not None)  # a row for the video itself
    right = max(_LEFT + len(frames) * wide, 880)
    bottom = _TOP + max((len(rows) + first) * tall, 330)
    page = Page(right + BAR, bottom + _BOTTOM)
    page.text(_LEFT, 38, asked.title, size=32, bold=True)
    page.text(_LEFT, 80, moment_text(moment.header, moment), size=19, colour=FAINT)
    for n, frame in enumerate(frames):
        x = _LEFT + n * wide
        name = f"latent frame {_number(moment, frame)}"
        page.text(x + (wide - _GAP) / 2, _TOP - 14, name, size=15, align="center", colour=FAINT)
        if first:
            page.picture(x, _TOP, backs[n])
        for row, at in enumerate(rows):
            heat = _heat(strips[at][1][frame], colours, backs[n], blend=bool(first))
            page.picture(x, _TOP + (row + first) * tall, heat)
    for row, name in enumerate(["video"] * first + [strips[at][0] for at in rows]):
        y = _TOP + (row + 0.5) * tall - _GAP / 2
        page.text(_LEFT - 14, y, name, size=17, bold=True, align="right")
    height = min(420, bottom - _TOP - 40)
    draw_bar(page, right, _TOP, height, colours, asked.unit)
    left_out = f" {len(rows)} of {len(strips)} rows are shown; csv has all."
    explain(page, _LEFT, bottom + 30, asked.words + left_out * (len(rows) < len(strips)))
    return page.render()


def _backgrounds(moment: Moment, frames: list[int], video: Tensor | None, width: int) -> Tensor:
    """What lies under the colours of each shown frame, [n, h, w, 3]."""
    grid: TokenGrid = moment.header.grid
    if video is None:
        cell = max(1, width // grid.cols)
        return torch.ones(len(frames), grid.rows * cell, grid.cols * cell, 3)
    of = moment.excerpt.of if moment.excerpt else grid.frames
    numbers = [_number(moment, frame) for frame in frames]
    at = [round(number * (len(video) - 1) / max(1, of - 1)) for number in numbers]
    return fit(video[at], width)


def _number(moment: Moment, frame: int) -> int:
    """A grid's frame as counted in the whole video."""
    return moment.excerpt.frames[frame] if moment.excerpt else frame


def _heat(values: Tensor, colours: ColourScale, back: Tensor, blend: bool) -> Tensor:
    """values [R, C] as colours over a picture [h, w, 3], whose own colours become grey."""
    height, width = back.shape[:2]
    cells = colours.colours(values).movedim(-1, 0)[None]
    heat = resize(cells, (height, width), interpolation="nearest")[0].movedim(0, -1)
    if not blend:
        return heat
    grey = rgb_to_grayscale(back.movedim(-1, 0)[None])[0].movedim(0, -1).expand_as(back)
    return grey.lerp(heat, _OPAQUE)
