"""Load the toy world's three files with ComfyUI's own loaders."""

from __future__ import annotations

from pathlib import Path

import comfy.sd
import comfy.utils
from comfy.model_patcher import ModelPatcher

from .toy_text import load_toy_clip

WEIGHTS = Path(__file__).parent.parent / "toy" / "weights"
MODEL_FILE = "toy_wan.safetensors"
VAE_FILE = "toy_wan_vae.safetensors"
TEXT_FILE = "toy_text.safetensors"


def load_toy_world(folder: Path = WEIGHTS) -> tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE; each call gives fresh ones that share nothing."""
    model, text, vae = (_existing(folder / f) for f in (MODEL_FILE, TEXT_FILE, VAE_FILE))
    return comfy.sd.load_diffusion_model(str(model)), load_toy_clip(text), _load_vae(vae)


def _load_vae(path: Path) -> comfy.sd.VAE:
    weights, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    vae = comfy.sd.VAE(sd=weights, metadata=metadata)
    vae.throw_exception_if_invalid()
    return vae


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"toy world: {path.name} is missing from {path.parent}; install the pack again, "
            "or train and export it (see CONTRIBUTING.md)"
        )
    return path
