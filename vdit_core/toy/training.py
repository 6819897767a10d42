"""The training loops of the toy world. They know torch and clips; the networks are handed in."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from .clips import Scene, random_scenes, render
from .latents import LatentBasis
from .text import embed, word_vectors


@dataclass(frozen=True)
class Schedule:
    """How long, how fast. Rates rise over `warmup` steps and fall to zero over the last fifth."""

    steps: int
    batch: int
    rate: float
    warmup: int = 200
    ema: float = 0.9995
    seed: int = 0

    def factor(self, step: int) -> float:
        """Share of `rate` in force at `step`."""
        decay = 0.2 * self.steps
        left = (self.steps - step) / decay if decay else 1.0
        return min(1.0, (step + 1) / self.warmup, max(0.0, left))


Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]  # (noisy, timestep, text) → velocity


class Run:
    """A training run on disk: weights, average, optimisers and step, saved whole or not at all."""

    def __init__(
        self, path: Path, network: nn.Module, schedule: Schedule, muon: Callable[[str], bool]
    ) -> None:
        self.path = path
        self.network = network
        self.schedule = schedule
        self.step = 0
        self.average = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.optimisers = _optimisers(network, schedule.rate, muon)
        if path.exists():
            self._load()

    def steps(self, save_every: float = 120.0) -> Iterator[int]:
        """Yield step numbers; after each, apply the gradients left in the network."""
        saved = time.monotonic()
        while self.step < self.schedule.steps:
            yield self.step
            self._apply()
            if time.monotonic() - saved > save_every:
                self.save()
                saved = time.monotonic()
        self.save()

    def save(self) -> None:
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimisers": [o.state_dict() for o in self.optimisers],
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.path)

    def _load(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.step = state["step"]
        self.average = state["average"]
        self.network.load_state_dict(state["network"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)

    def _apply(self) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * self.schedule.factor(self.step)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(self.schedule.ema, self.step / (self.step + 10))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)


def flow_loss(network: Velocity, latents: Tensor, text: Tensor, sigma: Tensor) -> Tensor:
    """Mean squared error of the velocity `noise − latent` at noise level `sigma`.

    latents: [B, 16, F, R, C]; text: [B, L, D]; sigma: [B] in 0..1. The timestep is 1000·sigma.
    """
    noise = torch.randn_like(latents)
    level = sigma[:, None, None, None, None]
    noisy = torch.lerp(latents, noise, level)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = network(noisy, sigma * 1000, text)
    return (velocity.float() - (noise - latents)).square().mean()


def train_flow(
    run: Run,
    network: Velocity,
    latents: Tensor,
    scenes: list[Scene],
    *,
    shift: float,
    report: Callable[[str], None],
) -> None:
    """Train a velocity model on latents of clips; one prompt in ten is dropped for guidance.

    shift: noise levels are drawn uniform, then moved up by σ → shift·σ / (1 + (shift − 1)·σ).
    """
    vectors = word_vectors()
    schedule, began, total = run.schedule, time.monotonic(), 0.0
    first = run.step
    for step in run.steps():
        torch.manual_seed(schedule.seed + 1 + step)  # a resumed run draws what it would have drawn
        rows = torch.randint(len(scenes), (schedule.batch,))
        dropped = (torch.rand(schedule.batch) < 0.1).tolist()
        prompts = [
            "" if d else scenes[r].prompt for r, d in zip(rows.tolist(), dropped, strict=True)
        ]
        sigma = torch.rand(schedule.batch)
        sigma = shift * sigma / (1 + (shift - 1) * sigma)
        loss = flow_loss(network, latents[rows].float(), embed(prompts, vectors), sigma)
        loss.backward()
        total += loss.item()
        if step % 100 == 99:
            rate = (step + 1 - first) * schedule.batch / (time.monotonic() - began)
            report(f"step {step + 1}/{schedule.steps} loss {total / 100:.4f} {rate:.0f} clips/s")
            total = 0.0


def train_vae(
    run: Run,
    vae: Autoencoder,
    basis: LatentBasis,
    to_raw: Callable[[Tensor], Tensor],
    *,
    report: Callable[[str], None],
) -> None:
    """Teach the encoder to give the toy latents of a clip and the decoder to turn them to pixels.

    The latents are block-local, so most steps see crops of 32 × 32; the last fifth, whole frames.
    to_raw: from the model's unit-variance latents to the VAE's own numbers.
    """
    schedule, began, errors = run.schedule, time.monotonic(), torch.zeros(2)
    for step in run.steps():
        generator = torch.Generator().manual_seed(schedule.seed + 7_000_001 + step)
        whole = step >= 0.8 * schedule.steps
        count = schedule.batch // 2 if whole else schedule.batch
        clips = render(random_scenes(count, generator), generator)
        if not whole:
            clips = _random_crop(clips, generator)
        latents = basis.encode(clips)
        blurred = latents + 0.05 * torch.randn(latents.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decode(to_raw(blurred)).float()
            encoded = vae.encode(clips * 2 - 1).float()
        pixel = (decoded - (clips * 2 - 1)).square().mean() / 4
        latent = (encoded - to_raw(latents)).square().mean() / 4
        (100 * pixel + latent).backward()
        errors += torch.stack([pixel, latent]).detach()
        if step % 50 == 49:
            pace = (time.monotonic() - began) / 50
            mean, began = errors / 50, time.monotonic()
            errors = torch.zeros(2)
            decibel = -10 * math.log10(mean[0].item())
            report(
                f"step {step + 1}/{schedule.steps} decoder {decibel:.2f} dB, "
                f"encoder error {mean[1].item():.4f}, {pace:.2f} s/step"
            )


class Autoencoder(Protocol):
    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, z: Tensor) -> Tensor: ...


def _random_crop(clips: Tensor, generator: torch.Generator) -> Tensor:
    """A 32 × 32 crop on the block grid, the same for the whole batch."""
    y, x = (8 * torch.randint(5, (2,), generator=generator)).tolist()
    return clips[..., y : y + 32, x : x + 32]


def render_latents(
    count: int, seed: int, basis: LatentBasis, report: Callable[[str], None]
) -> tuple[Tensor, list[Scene]]:
    """Render `count` clips and keep only their latents, [count, 16, 5, 8, 8] bfloat16."""
    latents: list[Tensor] = []
    scenes: list[Scene] = []
    for start in range(0, count, 64):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        batch = random_scenes(min(64, count - start), generator)
        latents.append(basis.encode(render(batch, generator)).bfloat16())
        scenes += batch
        if start // 64 % 32 == 31:
            report(f"rendered {start + 64} of {count} clips")
    return torch.cat(latents), scenes


def _optimisers(
    network: nn.Module, rate: float, muon: Callable[[str], bool]
) -> list[torch.optim.Optimizer]:
    named = list(network.named_parameters())
    matrices = [p for n, p in named if p.ndim == 2 and muon(n)]
    chosen = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in chosen]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": others, "peak": rate}], lr=rate, betas=(0.9, 0.98), weight_decay=0.01
        )
    ]
    if matrices:
        optimisers.append(
            torch.optim.Muon(
                [{"params": matrices, "peak": rate * 2}],
                lr=rate * 2,
                weight_decay=0.01,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimisers


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in 0..1."""
    return -10 * math.log10((a - b).square().mean().item())
