"""Frame by frame: how much of each frame's attention goes to each frame, layer by layer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..grid import TokenGrid
from ..record import Header, RecordData
from .canvas import FAINT, INK, PAPER, Page
from .colours import ColourScale, choose_scale, paint
from .frames import FrameAxis
from .heat_sheet import short
from .legend import BAR, draw_bar, explain, moment_text
from .panels import Chosen, Moment, choose_heads
from .statistics import Statistics
from .table import Cell, Table

_LEFT, _TOP, _LABEL, _GAP, _BOTTOM = 76, 116, 30, 34, 150
_WIDE, _LARGEST, _SMALLEST = 1180, 340, 110  # pixels of all panels; of one
_NUMBERED = 44  # pixels of a cell that has room for its number
_LIGHT = 0.55
_WORDS = (
    "Row: the frame that looks. Column: the frame looked at, latent frames from 0. The share of a "
    "row's attention, mean over the tokens of the frame; what is missing to 100 % goes to tokens "
    "that are not video."
)


def draw_frame_maps(data: RecordData, chosen: Chosen) -> Statistics:
    """A map of frames for each layer and head that was chosen. Raises ValueError without them."""
    moment, found = chosen.calls(data)
    panels: list[tuple[str, Tensor]] = []
    rows: list[list[Cell]] = []
    lines: list[list[Cell]] = []
    for m in found:
        if (mass := m.measures.frame_mass) is None:
            raise ValueError(
                f"view: the mass from frame to frame of layer {m.layer} was not captured; turn on "
                "structure on VDiT Capture and sample again (records of older versions lack it)"
            )
        for name, at in choose_heads(data, m, chosen.head):
            share = 100 * mass[at].double().mean(0)
            label = f"layer {m.layer}" if name == "mean" else f"layer {m.layer}, head {name}"
            panels.append((label, share))
            lines.append([label, *_summary(share)])
            rows += [
                [moment.item, moment.step, moment.branch, m.layer, name, query, key, value]
                for query, line in enumerate(share.tolist())
                for key, value in enumerate(line)
            ]
    columns = ["video", "step", "branch", "layer", "head", "frame that looks", "frame looked at"]
    head = "\n".join(["Mass from frame to frame (%)", moment_text(moment.header, moment), ""])
    names = ["", "on the own frame", "on the next ones", "on the first", "on the last"]
    report = head + "\n" + Table(names, lines).text()
    image = _draw(moment.header, moment, panels)
    return Statistics(image, report, Table([*columns, "share of the mass (%)"], rows))


def _summary(share: Tensor) -> list[Cell]:
    """Mean over the rows: on the own frame, on those beside it, on the first and the last."""
    frames = len(share)
    beside = share.diagonal(1).sum() + share.diagonal(-1).sum()
    ends = share[:, 0].mean(), share[:, -1].mean()
    return [float(x) for x in (share.diagonal().mean(), beside / frames, *ends)]


def _draw(header: Header, moment: Moment, panels: list[tuple[str, Tensor]]) -> Tensor:
    columns = min(len(panels), 4 if len(panels) > 6 else 3)
    columns = max(columns, -(-len(panels) // 8))
    lines = -(-len(panels) // columns)
    room = max(_SMALLEST, min(_LARGEST, _WIDE // columns - _GAP))
    frames = TokenGrid(header.grid.frames, 1, 1)
    axis = FrameAxis.of(
        replace(header, grid=frames, map_size=frames.frames, window=None), moment.excerpt, room
    )
    wide, high = axis.side + _GAP, _LABEL + axis.side + _GAP
    right, bottom = _LEFT + columns * wide, _TOP + max(lines * high, 330)
    page = Page(max(right + BAR, 980), bottom + _BOTTOM)
    page.text(_LEFT, 38, "Which frame looks at which", size=32, bold=True)
    page.text(_LEFT, 80, moment_text(header, moment), size=19, colour=FAINT)
    colours = choose_scale([share for _, share in panels], "log")
    for n, (label, share) in enumerate(panels):
        x, y = _LEFT + n % columns * wide, _TOP + n // columns * high + _LABEL
        page.text(x, y - _LABEL / 2, label, size=17, bold=True)
        _draw_panel(page, x, y, share, axis, colours, numbers=n % columns == 0)
    draw_bar(page, right + 4, _TOP + _LABEL, min(bottom - _TOP - 60, 420), colours, "mass (%)")
    page.text(_LEFT + axis.side / 2, bottom, "frame looked at", size=16, align="center")
    page.text(22, _TOP + _LABEL + axis.side / 2, "frame that looks", size=16, upright=True)
    explain(page, _LEFT, bottom + 44, _WORDS)
    return page.render()


def _draw_panel(
    page: Page,
    x: int,
    y: int,
    share: Tensor,
    axis: FrameAxis,
    colours: ColourScale,
    numbers: bool,
) -> None:
    shown, cell = axis.fit(share), axis.side // axis.bins
    pixels = paint(shown, colours, axis.side, [])
    axes = page.axes(x, y, axis.side, axis.side)
    axes.imshow(pixels.numpy(), aspect="auto", interpolation="nearest", extent=_extent(axis))
    places, names = axis.labels(room=30)
    axes.set_xticks(places, names, fontsize=14)
    axes.set_yticks(places, names if numbers else [""] * len(names), fontsize=14)
    axes.tick_params(length=0)
    if cell < _NUMBERED:
        return
    light = colours.colours(shown).mean(-1) > _LIGHT
    for row, col in torch.cartesian_prod(*[torch.arange(axis.bins)] * 2).tolist():
        ink = INK if bool(light[row, col]) else PAPER
        at = x + (col + 0.5) * cell, y + (row + 0.5) * cell
        page.text(*at, short(float(shown[row, col])), size=15, colour=ink, align="center")


def _extent(axis: FrameAxis) -> tuple[float, float, float, float]:
    return 0.0, float(axis.side), float(axis.side), 0.0
