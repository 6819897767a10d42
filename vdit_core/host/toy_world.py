"""Load the toy world: a video model of the chosen kind, the text encoder and the VAE."""

from __future__ import annotations

from pathlib import Path

import comfy.sd
import comfy.utils
from comfy.model_patcher import ModelPatcher

from .toy_mochi import load_toy_mochi
from .toy_text import load_toy_clip

WEIGHTS = Path(__file__).parent.parent / "toy" / "weights"
MODEL_FILES = {"wan": "toy_wan.safetensors", "mochi": "toy_mochi.safetensors"}
VAE_FILE = "toy_wan_vae.safetensors"
TEXT_FILE = "toy_text.safetensors"


def load_toy_world(
    folder: Path = WEIGHTS, variant: str = "wan"
) -> tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE; each call gives fresh ones that share nothing.

    variant: a key of MODEL_FILES. Text encoder and VAE are the same in all; Mochi's text comes with
    a mask of its padding, as from ComfyUI's own text encoder for Mochi.
    """
    names = (MODEL_FILES[variant], TEXT_FILE, VAE_FILE)
    model, text, vae = (_existing(folder / name) for name in names)
    if variant == "mochi":
        return load_toy_mochi(model), load_toy_clip(text, masked=True), _load_vae(vae)
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
