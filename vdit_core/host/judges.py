"""Judges of videos that need weights: ComfyUI's image encoders, and files in its models folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ..figures.judging import Judges
from ..lpips import Lpips
from .clip_text import prompt_of

FOLDER = "lpips"  # in ComfyUI's models folder
FILES = {
    "alexnet-owt-7be5be79.pth": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth "
    "(244 MB)",
    "alex.pth": "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/"
    "alex.pth (6 KB)",
}
_AT_ONCE = 8  # frames


def judges(clip_vision: Any, lpips: bool, clip: Any = None, prompt: str = "") -> Judges:
    """clip_vision: of Load CLIP Vision, or None. clip: of Load CLIP, or None, to read prompt with.

    Raises FileNotFoundError where weights lack, ValueError for encoders that do not fit.
    """
    read = prompt_of(prompt, clip, clip_vision)
    embed = None if clip_vision is None else _encoder(clip_vision)
    return Judges(embed, _load_lpips() if lpips else None, read)


def _encoder(clip_vision: Any) -> Callable[[Tensor], Tensor]:
    """Frames [F, H, W, 3] → image features [F, D]; each is cropped to a square, as CLIP wants."""

    def embed(video: Tensor) -> Tensor:
        parts = [
            clip_vision.encode_image(frames)["image_embeds"] for frames in video.split(_AT_ONCE)
        ]
        found = torch.cat(parts).float().cpu()
        if found.ndim != 2:
            raise ValueError(
                f"clip_vision: this encoder gives features of shape {tuple(found.shape)}, but one "
                "row for each frame is wanted; use a CLIP vision model, such as clip_vision_h"
            )
        return found

    return embed


def _load_lpips() -> Lpips:
    own = str(Path(folder_paths.models_dir) / FOLDER)
    folder_paths.add_model_folder_path(FOLDER, own)  # beside those of extra_model_paths.yaml
    return Lpips(*(_read(name) for name in FILES))


def _read(name: str) -> dict[str, Tensor]:
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        places = " or ".join(folder_paths.get_folder_paths(FOLDER))
        wanted = "\n".join(f"  {file}: {source}" for file, source in FILES.items())
        raise FileNotFoundError(
            f"lpips: {name} is not in {places}. LPIPS needs two files there, which this pack never "
            f"downloads:\n{wanted}\nPut them there and queue again, or turn lpips off"
        )
    state: Any = comfy.utils.load_torch_file(path, safe_load=True)
    return state
