"""A page of pixels: text and plots by matplotlib, pictures pasted exactly. No global state."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from torch import Tensor

INK, FAINT, PAPER = "#1f2328", "#6b7280", "#ffffff"
ACCENT = "#0072b2"  # blue of the Okabe–Ito colours, told apart by colour-blind readers
_DPI = 72  # so that one point of font size is one pixel


class Page:
    """Places are pixels from the top left corner; sizes of letters are pixels too."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        size = (width / _DPI, height / _DPI)
        self._figure = Figure(size, dpi=_DPI, facecolor=PAPER)
        self._figure.set_layout_engine("none")
        self._canvas = FigureCanvasAgg(self._figure)
        self._pictures: list[tuple[int, int, Tensor]] = []

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 16,
        bold: bool = False,
        colour: str = INK,
        align: str = "left",
        upright: bool = False,
    ) -> None:
        """Write with the middle of the line at y; `align` says which end of it is at x.

        upright: written from bottom to top, with the middle of the text at (x, y).
        """
        self._figure.text(
            x / self.width,
            1 - y / self.height,
            words,
            fontproperties=font(size, bold),
            color=colour,
            ha="center" if upright else align,
            va="center" if upright else "center_baseline",
            rotation=90 if upright else 0,
        )

    def picture(self, x: int, y: int, pixels: Tensor) -> None:
        """Paste [H, W, 3] float 0..1 with its top left corner at (x, y), over all else."""
        self._pictures.append((x, y, pixels))

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes that fill exactly this rectangle."""
        box = (x / self.width, 1 - (y + height) / self.height)
        axes = self._figure.add_axes((*box, width / self.width, height / self.height))
        axes.set_facecolor(PAPER)
        axes.tick_params(colors=INK, length=4, width=1, pad=4)
        for spine in axes.spines.values():
            spine.set_color(FAINT)
            spine.set_linewidth(1)
        return axes

    def render(self) -> Tensor:
        """The page as [1, H, W, 3] float 0..1."""
        for axes in self._figure.axes:
            for label in (*axes.get_xticklabels(which="both"), *axes.get_yticklabels(which="both")):
                label.set_fontproperties(font(float(label.get_fontsize())))
        self._canvas.draw()
        drawn = torch.frombuffer(bytearray(self._canvas.buffer_rgba()), dtype=torch.uint8)
        page = drawn.view(self.height, self.width, 4)[..., :3].float() / 255
        for x, y, pixels in self._pictures:
            rows, cols = pixels.shape[:2]
            page[y : y + rows, x : x + cols] = pixels
        return page[None]


def font(size: float, bold: bool = False) -> FontProperties:
    """The font that matplotlib brings along, whatever the user's settings say."""
    return FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")


def text_width(words: str, size: float, bold: bool = False) -> float:
    """Pixels a line of text takes up."""
    path = TextPath((0, 0), words, size=size, prop=font(size, bold))
    return float(path.get_extents().width)
