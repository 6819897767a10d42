"""The toy latent space: a linear projection of 4 × 8 × 8 pixel blocks to 16 numbers.

The video model is trained on these, the VAE's encoder is trained to produce them and its decoder to
undo them. That way the two networks can be trained at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .clips import random_scenes, render

CHANNELS = 16
BLOCK_FRAMES = 4
BLOCK_SIZE = 8


@dataclass(frozen=True)
class LatentBasis:
    """mean [768], basis [768, 16] with orthonormal columns, scale [16]."""

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def encode(self, clips: Tensor) -> Tensor:
        """[B, 3, 1 + 4·n, R, C] in 0..1 → [B, 16, 1 + n, R / 8, C / 8], about unit variance."""
        flat = _blocks(clips) - self.mean
        return ((flat @ self.basis) / self.scale).movedim(-1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """The linear inverse of `encode`: what the decoder has to do better than."""
        flat = (latents.movedim(1, -1) * self.scale) @ self.basis.T + self.mean
        b, f, r, c, _ = flat.shape
        block = flat.view(b, f, r, c, 3, BLOCK_FRAMES, BLOCK_SIZE, BLOCK_SIZE)
        video = block.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(
            b, 3, f * BLOCK_FRAMES, r * BLOCK_SIZE, c * BLOCK_SIZE
        )
        return video[:, :, BLOCK_FRAMES - 1 :].clamp(0, 1)


def fit_basis(seed: int, clips: int = 1024) -> LatentBasis:
    """Principal components of random clips, divided by the fourth root of their variance.

    Full whitening would make the model spend itself on noise, none at all on mean colours.
    """
    generator = torch.Generator().manual_seed(seed)
    flat = torch.cat(
        [
            _blocks(render(random_scenes(64, generator), generator)).flatten(0, -2)
            for _ in range(clips // 64)
        ]
    )
    mean = flat.mean(0)
    covariance = torch.cov((flat - mean).T.double())
    variance, vectors = torch.linalg.eigh(covariance)
    variance = variance.flip(0)[:CHANNELS].float()
    basis = vectors.flip(1)[:, :CHANNELS].float()
    basis = basis * basis.sum(0).sign()  # fixes the sign, which eigh leaves open
    scale = variance.pow(0.25)
    scale = scale * (variance / scale.square()).mean().sqrt()
    return LatentBasis(mean, basis, scale)


def _blocks(clips: Tensor) -> Tensor:
    """Cut into blocks, the first frame repeated to fill its own: [B, 1 + n, R/8, C/8, 768]."""
    first = clips[:, :, :1].expand(-1, -1, BLOCK_FRAMES - 1, -1, -1)
    video = torch.cat([first, clips], dim=2)
    b, k, f, r, c = video.shape
    s, t = BLOCK_SIZE, BLOCK_FRAMES
    block = video.reshape(b, k, f // t, t, r // s, s, c // s, s)
    return block.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, f // t, r // s, c // s, -1)
