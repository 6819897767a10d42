"""ComfyUI: put real footage in the place of each pair's source, whenever the model is evaluated."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..footage import Footage

_FRAMES_EACH = {"Mochi": 6, "LTXV": 8}  # by latent format, where ComfyUI does not tell


class Stand:
    """Sources are rows 0, 2, 4 … of the sampler's batch, targets the rows after them."""

    def __init__(self, footage: Footage, noise: Tensor, patcher: ModelPatcher) -> None:
        """noise: what the sampler begins with, [2·P, C, F, H, W]."""
        model: Any = patcher.model
        self._clean: Tensor = model.process_latent_in(footage.latent)
        self._sampling: Any = patcher.get_model_object("model_sampling")
        self._noise = noise[1::2]

    def predict(self, executor: Any, x: Tensor, sigma: Tensor, *args: Any, **named: Any) -> Tensor:
        """PREDICT_NOISE wrapper: the model sees the footage with the target's first noise.

        The sampler is told that the clean video there is the footage, so that is what it ends with.
        """
        clean, noise = (t.to(x).expand_as(x[0::2]) for t in (self._clean, self._noise))
        x = x.clone()
        x[0::2] = self._sampling.noise_scaling(sigma.flatten()[:1], noise, clean)
        out = executor(x, sigma, *args, **named).clone()
        out[0::2] = clean
        return out


def frames_each(model: ModelPatcher) -> int:
    """Video frames in each latent frame but the first."""
    latent_format = model.model.latent_format
    told = getattr(latent_format, "temporal_downscale_ratio", 1)  # not in older versions
    return told if told > 1 else _FRAMES_EACH.get(type(latent_format).__name__, 4)


def check_video(model: ModelPatcher, latent: Tensor) -> None:
    """Raises ValueError for what is no video of this model."""
    channels = model.model.latent_format.latent_channels
    if latent.ndim != 5 or latent.shape[1] != channels:
        raise ValueError(
            f"video: the latent has shape {tuple(latent.shape)}, but this model's videos are "
            f"[batch, {channels}, frames, rows, columns]; encode the frames with the model's VAE"
        )
    if not bool(latent.any()):
        raise ValueError(
            "video: the latent is empty (zero everywhere); connect VAE Encode of the loaded frames"
        )
