"""Make the templates' thumbnails, which the README shows too, from a gallery of the demo.

python3 dev.py python -m vdit_attention.benchmarks.thumbnails gallery
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageSequence
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from ..vdit_core.figures.sweep import Row, sweep_grid
from .build_workflows import FOLDER
from .chapters import CHAPTERS

WIDTH = 900  # pixels
SHEETS = {chapter.workflow for chapter in CHAPTERS if chapter.first == "sheets"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gallery", type=Path, help="folder that `dev.py demo` has left")
    gallery: Path = parser.parse_args().gallery
    report = json.loads((gallery / "report.json").read_text("utf-8"))
    for outcome in report["workflows"]:
        path = FOLDER / f"{outcome['name']}.jpg"
        save(thumbnail(gallery, outcome), path)
        print(f"workflows/{path.name}")


def thumbnail(gallery: Path, outcome: dict[str, Any]) -> Image.Image:
    """The workflow's videos as strips below each other, or its first still picture."""
    rows: list[Row] = []
    stills: list[Image.Image] = []
    for picture in outcome["pictures"]:
        image = Image.open(gallery / picture["file"])
        if getattr(image, "n_frames", 1) > 1:
            rows.append(Row(frames(image), picture["title"]))
        else:
            stills.append(image.convert("RGB"))
    if outcome["name"] in SHEETS or not rows:
        return stills[0]
    return to_pil_image(sweep_grid(rows)[0].movedim(-1, 0))


def frames(image: Image.Image) -> Tensor:
    """An animated picture as [F, H, W, 3] in 0..1."""
    parts = [pil_to_tensor(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    return torch.stack(parts).movedim(1, -1) / 255


def save(image: Image.Image, path: Path) -> None:
    height = round(image.height * WIDTH / image.width)
    image.resize((WIDTH, height), Image.Resampling.LANCZOS).save(path, quality=85)


if __name__ == "__main__":
    main()
