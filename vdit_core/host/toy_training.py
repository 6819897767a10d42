"""Train the toy world: `python3 dev.py python -m vdit_attention.vdit_core.host.toy_training model`.

The parts are `model` (the Wan), `mochi` and `vae`.

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
from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint  # noqa: E402
from torch import Tensor  # noqa: E402

from ..toy import training  # noqa: E402
from ..toy.latents import fit_basis  # noqa: E402
from .toy_networks import trainable_mochi, trainable_vae, trainable_wan  # noqa: E402

BASIS_SEED = 0


def main() -> None:
    options = _parse(_arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    comfy.model_management.in_training = True  # the fused rotary embedding has no backward
    {"model": train_wan, "mochi": train_mochi, "vae": train_vae}[options.part](options)


def train_vae(options: argparse.Namespace) -> None:
    """Train the VAE to encode and decode the same latents."""
    basis = fit_basis(BASIS_SEED)
    network = trainable_vae(options.seed)
    schedule = training.Schedule(
        options.steps, options.batch, options.rate, ema=0.998, seed=options.seed
    )
    run = training.Run(options.folder / "vae.pt", network, schedule, lambda name: False)
    training.train_vae(run, network, basis, Wan21().process_out, report=_say)


def train_wan(options: argparse.Namespace) -> None:
    network = trainable_wan(options.seed)
    _train_model(options, network, "model.pt", wan_velocity(network))


def train_mochi(options: argparse.Namespace) -> None:
    network = trainable_mochi(options.seed)
    _train_model(options, network, "mochi.pt", mochi_velocity(network))


def _train_model(
    options: argparse.Namespace,
    network: torch.nn.Module,
    checkpoint: str,
    velocity: training.Velocity,
) -> None:
    """Train a video model on latents of rendered clips."""
    basis = fit_basis(BASIS_SEED)
    cache = options.folder / f"latents-{options.clips}-{options.seed}.pt"
    if not cache.exists():
        latents, scenes = training.render_latents(options.clips, options.seed, basis, _say)
        torch.save((latents, [(s.colour, s.shape, s.background, s.motion) for s in scenes]), cache)
    latents, rows = torch.load(cache)
    scenes = [training.Scene(*row) for row in rows]
    schedule = training.Schedule(options.steps, options.batch, options.rate, seed=options.seed)
    run = training.Run(
        options.folder / checkpoint, network, schedule, lambda name: name.startswith("blocks.")
    )
    _say(f"{sum(p.numel() for p in network.parameters()):,} parameters, from step {run.step}")
    training.train_flow(run, velocity, latents, scenes, shift=4.0, report=_say)


def wan_velocity(network: torch.nn.Module) -> training.Velocity:
    """The network with plain attention (whose backward is faster here), compiled."""

    def attend(_: object, q: Tensor, k: Tensor, v: Tensor, heads: int, **__: object) -> Tensor:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1).to(v.dtype)
        return (weights @ v).transpose(1, 2).flatten(2)

    def velocity(noisy: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        options = {"optimized_attention_override": attend}
        return network(noisy, timestep, text, transformer_options=options)

    return torch.compile(velocity)


def mochi_velocity(network: AsymmDiTJoint) -> training.Velocity:
    """The same for Mochi: its timestep is sigma itself, and no key may be padding.

    ComfyUI samples with the text cropped to the prompt, so that padding is never a key. Here the
    batch is cropped to its longest prompt and the padding of the shorter ones is masked. Of an
    empty prompt one token stays, as in ComfyUI.
    """
    for layer in (network.x_embedder, network.t5_yproj):  # the residual streams stay in float32
        layer.register_forward_hook(lambda _, __, out: out.float())

    def inner(noisy: Tensor, sigma: Tensor, text: Tensor, mask: Tensor, longest: int) -> Tensor:
        seen = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:longest]], dim=1)
        seen = torch.cat([torch.ones_like(noisy[:, 0].flatten(1)), seen], dim=1)  # [B, keys]

        def attend(_: object, q: Tensor, k: Tensor, v: Tensor, *__: object, **___: object):
            return _attend_to(seen, q, k, v)

        options = {"optimized_attention_override": attend}
        return network(noisy, sigma, text, mask, longest, transformer_options=options)

    compiled = torch.compile(inner)

    def velocity(noisy: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        mask = text.any(-1)  # no word's vector is zero
        return compiled(noisy, timestep / 1000, text, mask, max(1, int(mask.sum(1).max())))

    return velocity


def _attend_to(seen: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention [B, H, L, D] → [B, L, H·D] over the keys where `seen` [B, L] is 1.

    Mochi's q and k are normalised, so exp cannot overflow and no row needs its maximum; the sums of
    the weights come out of the same product as the values. That takes half the time of a softmax.
    """
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).exp().to(v.dtype)
    values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    out = weights @ (values * seen[:, None, :, None].to(v.dtype))
    return (out[..., :-1] / out[..., -1:]).transpose(1, 2).flatten(2)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["model", "mochi", "vae"])
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
