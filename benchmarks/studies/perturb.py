"""What do maps of high and of low entropy carry? The identity and the uniform map, layer by layer.

2504.12027 ties high entropy to a video's quality and low entropy to the structure of its frames,
one layer at a time in AnimateDiff and CogVideoX-5B; here the toy Wan.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...vdit_core.edits.perturb import MAPS, Perturb
from ...vdit_core.host.toy_sampling import SamplerSettings
from ...vdit_core.ranking import share_of
from ...vdit_core.toy.clips import random_scenes
from ..checks import Check
from ..variants import Numbers, Trial, edited, entropies, likeness, make_trial, numbers_of, table_of

FIRST_SEED, STEPS, SHARE = 130_000, 4, 0.5
NONE = "no edit"


@torch.inference_mode()
def run(quick: bool = False) -> list[Check]:
    """For each map and layer: likeness to the plain video, words, quality; then both halves."""
    count = 2 if quick else 32
    scenes = random_scenes(count, torch.Generator().manual_seed(FIRST_SEED))
    seeds = [FIRST_SEED + n for n in range(count)]
    trial = make_trial(scenes, seeds, SamplerSettings(steps=STEPS))
    found = entropies(trial)
    sides = {side: tuple(share_of(found, SHARE, side)) for side in ("high", "low")}
    plain = trial.clips(lambda _: trial.model)
    rows = {NONE: _numbers(plain, plain, trial)}
    for name in MAPS[: 1 if quick else None]:
        by_layer = {}
        for layer in list(found)[: 1 if quick else None]:
            model = edited(trial.model, Perturb(name, 1.0), [layer])
            by_layer[layer] = _numbers(trial.clips(lambda _, m=model: m), plain, trial)
            share = sum(found[layer].values()) / len(found[layer])
            rows[f"{name}, layer {layer} (entropy share {share:.2f})"] = by_layer[layer]
        if not quick:
            rows |= {
                f"{name}, mean of {side}-entropy layers {', '.join(map(str, layers))}": _mean(
                    [by_layer[layer] for layer in layers]
                )
                for side, layers in sides.items()
            }
    return table_of(rows, NONE)


def _numbers(clips: torch.Tensor, plain: torch.Tensor, trial: Trial) -> Numbers:
    return {"SSIM": likeness(clips, plain)} | numbers_of(clips, trial.scenes)


def _mean(rows: Sequence[Numbers]) -> Numbers:
    """Clip by clip."""
    return {name: torch.stack([row[name] for row in rows]).mean(0) for name in rows[0]}
