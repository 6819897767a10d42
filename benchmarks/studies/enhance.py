"""Does acting on the layers that look widest make toy videos better?

Against no edit, against as many random layers, and against two published methods; without guidance
(cfg 1) and in few steps, so that there is something to make better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from comfy.model_patcher import ModelPatcher

from ...vdit_core.edits.enhance import MODES, enhancement
from ...vdit_core.host.toy_sampling import SamplerSettings
from ...vdit_core.toy.clips import random_scenes, render
from ..baselines import attention_skip_guidance, enhance_a_video
from ..checks import Check
from ..variants import (
    Trial,
    Way,
    edited,
    entropy_layers,
    make_trial,
    numbers_of,
    random_layers,
    table_of,
)

FIRST_SEED, STEPS, CFG = 120_000, 4, 1.0
SHARE = 0.5
STRENGTHS = {"mix": (0.1, 0.3), "temperature": (0.1, 0.3), "guidance": (0.5, 1.0)}
TEMPERATURES, SCALES = (1.0, 4.0), (0.5, 1.0)  # of Enhance-A-Video, of attention-skip guidance
NONE = "no edit"


@torch.inference_mode()
def run(quick: bool = False) -> list[Check]:
    """A row for each way: words right, consistency and sharpness, with their spread."""
    count = 2 if quick else 32
    scenes = random_scenes(count, torch.Generator().manual_seed(FIRST_SEED))
    seeds = [FIRST_SEED + n for n in range(count)]
    trial = make_trial(scenes, seeds, SamplerSettings(steps=STEPS, cfg=CFG))
    high = entropy_layers(trial, SHARE, "high")
    ways = _ways(trial, high)
    if quick:
        ways = {name: ways[name] for name in list(ways)[:3]}
    rows = {name: numbers_of(trial.clips(way), scenes) for name, way in ways.items()}
    truth = render(scenes, torch.Generator().manual_seed(FIRST_SEED))
    return table_of(rows | {"rendered clips, as trained on": numbers_of(truth, scenes)}, NONE)


def _ways(trial: Trial, high: Sequence[int]) -> dict[str, Way]:
    """Each edit in the layers that look widest and, batch by batch, in as many random ones."""
    named, model = f"high-entropy layers {', '.join(map(str, high))}", trial.model
    ways: dict[str, Way] = {NONE: lambda _: model}
    for title, make in _edits(model).items():
        ways[f"{title}, {named}"] = lambda _, make=make: make(high)
        ways[f"{title}, random layers"] = lambda number, make=make: make(
            random_layers(trial, high, number)
        )
    for tau in TEMPERATURES:
        ways[f"Enhance-A-Video, τ = {tau:g}"] = lambda _, tau=tau: enhance_a_video(model, tau)
    return ways


def _edits(model: ModelPatcher) -> dict[str, Callable[[Sequence[int]], ModelPatcher]]:
    """Layers → the model with an edit in them, by name."""
    found: dict[str, Callable[[Sequence[int]], ModelPatcher]] = {}
    for mode in MODES:
        for strength in STRENGTHS[mode]:
            change = enhancement(mode, strength, "all")
            found[f"{mode} {strength:g}"] = partial(edited, model, change)
    for scale in SCALES:
        found[f"attention-skip guidance {scale:g}"] = partial(
            attention_skip_guidance, model, scale=scale
        )
    return found
