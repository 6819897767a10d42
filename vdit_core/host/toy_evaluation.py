"""Measure the toy world: `python -m …vdit_core.host.toy_evaluation [--variant mochi]`.

Samples held-out seeds with random prompts through ComfyUI's sampler, decodes, reads the pictures
and counts how often each word of the prompt is what can be seen. Accuracies stand beside chance.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import comfy.options
import torch

_arguments = sys.argv[1:]
sys.argv = [sys.argv[0], *([] if torch.cuda.is_available() else ["--cpu"])]
comfy.options.enable_args_parsing()
import comfy.sd  # noqa: E402  (comfy reads the arguments when imported)
from comfy.latent_formats import Wan21  # noqa: E402
from torch import Tensor  # noqa: E402

from ..toy.clips import (  # noqa: E402
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Scene,
    random_scenes,
    render,
)
from ..toy.latents import fit_basis  # noqa: E402
from ..toy.reading import FIELDS, Reading, read  # noqa: E402
from ..toy.training import psnr  # noqa: E402
from .toy_sampling import (  # noqa: E402
    SamplerSettings,
    decode_clips,
    encode_clips,
    sample_latents,
)
from .toy_sheet import contact_sheet  # noqa: E402
from .toy_world import MODEL_FILES, WEIGHTS, load_toy_world  # noqa: E402

HELD_OUT = 2_000_000_000  # far from the seeds of the training clips
WORDS = dict(zip(FIELDS, (tuple(COLOURS), SHAPES, BACKGROUNDS, MOTIONS), strict=True))
LEAST = {  # mochi, trained far less, is only kept from getting worse
    "wan": {"colour": 0.95, "shape": 0.95, "background": 0.95, "motion": 0.90},
    "mochi": {"colour": 0.95, "shape": 0.45, "background": 0.95, "motion": 0.70},
}
LEAST_PSNR = 28.0  # dB


def main() -> None:
    options = parse(_arguments)
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        result = evaluate(options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    sys.exit(0 if all(check["ok"] for check in result["checks"]) else 1)


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Sample, read and print; return what was measured, `checks` as in the demo's report."""
    settings = SamplerSettings(
        options.steps, options.cfg, options.sampler, options.scheduler, options.shift
    )
    model, clip, vae = load_toy_world(options.folder, options.variant)
    scenes = random_scenes(options.seeds, torch.Generator().manual_seed(HELD_OUT))
    seeds = [HELD_OUT + i for i in range(len(scenes))]
    began = time.monotonic()
    prompts = [s.prompt for s in scenes]
    latents = sample_latents(model, clip, prompts, seeds, settings)
    _say(f"{len(scenes)} clips sampled in {time.monotonic() - began:.1f} s, {asdict(settings)}")
    linear = options.decoder == "linear"
    clips = _decode_linearly(latents) if linear else decode_clips(vae, latents)
    reading = read(clips)
    least = LEAST[options.variant]
    checks = [_check(field, reading, scenes, least[field]) for field in FIELDS]
    if not linear:
        checks.append(_check_vae(vae, options.seeds))
    _say_motions(reading, scenes)
    if options.sheet:
        contact_sheet(clips, scenes, reading).save(options.sheet)
    _say(f"{time.monotonic() - began:.0f} s in all")
    measured = {"settings": asdict(settings), "seeds": len(scenes), "checks": checks}
    return {"variant": options.variant} | measured


def _check(field: str, reading: Reading, scenes: list[Scene], least: float) -> dict[str, Any]:
    right = reading.agrees(scenes)[field].float().mean().item()
    chance, unclear = 1 / len(WORDS[field]), (getattr(reading, field) < 0).float().mean().item()
    check = {
        "name": f"toy world: {field} right",
        "value": right,
        "unit": "share of clips",
        "chance": chance,
        "limit": least,
        "ok": right >= least,
    }
    _say(
        f"{field:>11} {right:6.1%}  (chance {chance:.0%}, at least {least:.0%} wanted, "
        f"unclear {unclear:.1%}) {_verdict(check)}"
    )
    return check


def _check_vae(vae: comfy.sd.VAE, count: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(HELD_OUT + 1)
    scenes = random_scenes(count, generator)
    clips = render(scenes, generator)
    rebuilt = decode_clips(vae, encode_clips(vae, clips))
    value = psnr(rebuilt, clips)
    check = {
        "name": "toy world: VAE reconstruction",
        "value": value,
        "unit": "dB",
        "limit": LEAST_PSNR,
        "ok": value >= LEAST_PSNR,
    }
    right = read(rebuilt).agrees(scenes)
    words = ", ".join(f"{f} {r.float().mean():.1%}" for f, r in right.items())
    _say(f"        VAE {value:6.2f} dB on {count} fresh clips {_verdict(check)}")
    _say(f"            right in rendered clips after the VAE: {words}")
    return check


def _decode_linearly(latents: Tensor) -> Tensor:
    """Clips by the projection the latents were made with: the video model without the VAE."""
    return fit_basis(0).decode(Wan21().process_in(latents).float().cpu())


def _say_motions(reading: Reading, scenes: list[Scene]) -> None:
    names = (*MOTIONS, "unclear")
    _say("motion asked \\ seen " + "".join(f"{name:>10}" for name in names))
    for index, name in enumerate(MOTIONS):
        rows = [i for i, s in enumerate(scenes) if s.motion == index]
        seen = reading.motion[rows]
        counts = [(seen == k).sum().item() for k in (*range(len(MOTIONS)), -1)]
        _say(f"{name:>19} " + "".join(f"{c:>10}" for c in counts))


def _verdict(check: dict[str, Any]) -> str:
    return "ok" if check["ok"] else "NOT REACHED"


def parse(arguments: list[str]) -> argparse.Namespace:
    usual = SamplerSettings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="of the safetensors files")
    parser.add_argument("--variant", choices=list(MODEL_FILES), default="wan")
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--cfg", type=float, default=usual.cfg)
    parser.add_argument("--sampler", default=usual.sampler)
    parser.add_argument("--scheduler", default=usual.scheduler)
    parser.add_argument("--shift", type=float, default=usual.shift)
    parser.add_argument("--decoder", choices=["vae", "linear"], default="vae")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--sheet", type=Path, help="write a picture of every clip here")
    return parser.parse_args(arguments)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
