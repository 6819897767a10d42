"""Is a word looked at from what it names? The toy models, where the prompt tells what is where."""

from __future__ import annotations

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ...vdit_core.figures.panels import Chosen
from ...vdit_core.figures.token_heatmap import places_of
from ...vdit_core.host.comfy import attach
from ...vdit_core.host.toy_evaluation import HELD_OUT
from ...vdit_core.host.toy_sampling import (
    AT_ONCE,
    LATENT_SHAPE,
    SamplerSettings,
    decode_clips,
    sample_latents,
)
from ...vdit_core.host.toy_world import load_toy_world
from ...vdit_core.program import Asker, Capture
from ...vdit_core.record import Record
from ...vdit_core.selection import parse_selection, parse_where
from ...vdit_core.toy.clips import random_scenes
from ..checks import Check

WORDS = {"colour": 1, "shape": 2, "motion": 3, "background": 6}  # by their place in the prompt
ALWAYS, MID = parse_selection("all", "layers"), parse_selection("mid", "steps")
COLOURFUL = 0.3  # of the difference between a pixel's channels: backgrounds are grey
_LATENT = LATENT_SHAPE[1:]


def run(quick: bool = False) -> list[Check]:
    """4 prompts of 10 steps, or 32 of 20, on each toy model."""
    count, steps = (4, 10) if quick else (32, 20)
    with torch.inference_mode():
        return [c for variant in ("wan", "mochi") for c in _of_variant(variant, count, steps)]


def _of_variant(variant: str, count: int, steps: int) -> list[Check]:
    model, clip, vae = load_toy_world(variant=variant)
    scenes = random_scenes(count, torch.Generator().manual_seed(HELD_OUT))
    prompts = [scene.prompt for scene in scenes]
    parts = [
        _ratios(model, clip, vae, prompts[first : first + AT_ONCE], first, steps)
        for first in range(0, count, AT_ONCE)
    ]
    ratios = torch.cat(parts)
    found: list[Check] = []
    for n, kind in enumerate(WORDS):
        known = ratios[:, n][ratios[:, n].isfinite()]
        low, middle, high = known.quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
        more = float((known > 1).double().mean())
        note = f"median of {len(known)} prompts, quartiles {low:.2f} to {high:.2f}; "
        name = f"{variant}: {kind}, weight from the object ÷ from elsewhere"
        found.append(Check(name, middle, "×", note=f"{note}above 1 in {more:.0%}"))
    return found


def _ratios(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    vae: comfy.sd.VAE,
    prompts: list[str],
    first: int,
    steps: int,
) -> Tensor:
    """For each prompt and kind of word, [n, 4] float64; NaN where no object is to be seen."""
    record = Record()
    where = parse_where("all", "all")
    asked = Capture(Asker("study"), where, MID, record, "cond", map_size=8, more=("words",))
    seeds = [HELD_OUT + first + n for n in range(len(prompts))]
    settings = SamplerSettings(steps=steps)
    latents = sample_latents(attach(model, asked), clip, prompts, seeds, settings)
    rows: list[Tensor] = []
    for item, video in enumerate(decode_clips(vae, latents)):
        _, calls = Chosen(ALWAYS, "mean", MID, "cond", item).calls(record.data)
        places = torch.stack([places_of(record.data, m) for m in calls]).mean(0).double()
        inside = _object(video).flatten()
        chosen = places[[*WORDS.values()]]
        rows.append(chosen[:, inside].mean(-1) / chosen[:, ~inside].mean(-1))
    return torch.stack(rows)


def _object(video: Tensor) -> Tensor:
    """Which tokens the coloured object covers by half or more. video: [3, F, H, W] → [F, R, C]."""
    frames, rows, cols = _LATENT
    shown = video[:, torch.linspace(0, video.shape[1] - 1, frames).round().long()]
    colourful = (shown.amax(0) - shown.amin(0) > COLOURFUL).double()
    size = shown.shape[2] // rows, shown.shape[3] // cols
    return avg_pool2d(colourful[:, None], size)[:, 0] >= 0.5
