"""Train the toy world: `python3 dev.py python -m vdit_attention.vdit_core.host.toy_training model`.

Kill it at any time: the same command goes on from the last checkpoint. Give `--steps` another value
to stop sooner or later; the last fifth of the steps lowers the learning rate.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import comfy.options
import torch

sys.argv, _arguments = [sys.argv[0], "--cpu"], sys.argv[1:]
comfy.options.enable_args_parsing()
import comfy.model_management  # noqa: E402  (reads the arguments above when imported)
from comfy.latent_formats import Wan21  # noqa: E402

from ..toy import training  # noqa: E402
from ..toy.latents import fit_basis  # noqa: E402
from .toy_networks import trainable_vae, trainable_wan  # noqa: E402

BASIS_SEED = 0


def main() -> None:
    options = _parse(_arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    comfy.model_management.in_training = True  # the fused rotary embedding has no backward
    {"model": train_model, "vae": train_vae}[options.part](options)


def train_vae(options: argparse.Namespace) -> None:
    """Train the VAE to encode and decode the same latents."""
    basis = fit_basis(BASIS_SEED)
    network = trainable_vae(options.seed)
    schedule = training.Schedule(
        options.steps, options.batch, options.rate, ema=0.998, seed=options.seed
    )
    run = training.Run(options.folder / "vae.pt", network, schedule, lambda name: False)
    training.train_vae(run, network, basis, Wan21().process_out, report=_say)


def train_model(options: argparse.Namespace) -> None:
    """Train the video model on latents of rendered clips."""
    basis = fit_basis(BASIS_SEED)
    cache = options.folder / f"latents-{options.clips}-{options.seed}.pt"
    if not cache.exists():
        latents, scenes = training.render_latents(options.clips, options.seed, basis, _say)
        torch.save((latents, [(s.colour, s.shape, s.background, s.motion) for s in scenes]), cache)
    latents, rows = torch.load(cache)
    scenes = [training.Scene(*row) for row in rows]
    network = trainable_wan(options.seed)
    schedule = training.Schedule(options.steps, options.batch, options.rate, seed=options.seed)
    run = training.Run(
        options.folder / "model.pt", network, schedule, lambda name: name.startswith("blocks.")
    )
    _say(f"{sum(p.numel() for p in network.parameters()):,} parameters, from step {run.step}")
    training.train_flow(run, _velocity(network), latents, scenes, shift=4.0, report=_say)


def _velocity(network: torch.nn.Module) -> training.Velocity:
    """The network with plain attention (whose backward is faster here), compiled."""

    def attend(
        _: object, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, **__: object
    ):
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1).to(v.dtype)
        return (weights @ v).transpose(1, 2).flatten(2)

    def velocity(noisy: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        options = {"optimized_attention_override": attend}
        return network(noisy, timestep, text, transformer_options=options)

    return torch.compile(velocity)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["model", "vae"])
    parser.add_argument("--folder", type=Path, default=Path("toy-training"))
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--clips", type=int, default=40960)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(arguments)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
