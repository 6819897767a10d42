"""A picture of many toy clips: first, middle and last frame each, with the words asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..toy.clips import Scene
from ..toy.reading import FIELDS, Reading

COLUMNS = 4
LABEL = 26  # pixels, two lines
GAP = 6


def contact_sheet(clips: Tensor, scenes: Sequence[Scene], reading: Reading) -> Image.Image:
    """Lay out clips [B, 3, F, R, C] in 0..1; labels name the words that are wrong, in red."""
    frames, rows, cols = clips.shape[-3:]
    width, height = 3 * cols + GAP, rows + LABEL + GAP
    lines = -(-len(clips) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width + GAP, lines * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    agrees = reading.agrees(scenes)
    for index, scene in enumerate(scenes):
        x, y = GAP + index % COLUMNS * width, GAP + index // COLUMNS * height
        wrong = [field for field in FIELDS if not agrees[field][index]]
        shown = clips[index, :, [0, frames // 2, frames - 1]]  # [3, 3, R, C]
        sheet.paste(_picture(shown), (x, y + LABEL))
        label = scene.prompt.removeprefix("a ").removesuffix(" background").replace(" on a ", ", ")
        draw.text((x, y), label, fill="black")
        draw.text((x, y + LABEL // 2), "".join(f"{field} wrong  " for field in wrong), fill="red")
    return sheet


def _picture(frames: Tensor) -> Image.Image:
    """Frames [3, n, R, C] side by side."""
    strip = torch.cat(list(frames.unbind(1)), dim=-1).movedim(0, -1)
    return Image.fromarray((strip.clamp(0, 1) * 255).round().byte().numpy())
