"""Does a transfer in the layers that look narrowest keep the source and obey the new prompt?

Against all layers, those that look widest, as many random ones, no transfer (the same seed alone),
and a noised start from the source's video (SDEdit, Meng et al., arXiv 2108.01073). Near pairs
differ in the colour word, far pairs in every word.
"""

from __future__ import annotations

from collections.abc import Sequence

import comfy.sample
import torch
from torch import Tensor

from ...vdit_core.edits.transfer import PairTransfer
from ...vdit_core.host.comfy import layer_count
from ...vdit_core.host.toy_sampling import (
    AT_ONCE,
    SamplerSettings,
    decode_clips,
    encode_prompts,
    noise_of,
)
from ...vdit_core.toy.reading import Reading, background_distance, read, track_distance
from ..checks import Check
from ..transfer import Pairs, make_pairs
from ..variants import (
    Numbers,
    Trial,
    Way,
    edited,
    entropy_layers,
    likeness,
    make_trial,
    random_layers,
    table_of,
)

STEPS, SHARE = 4, 0.5
NOISED = (0.5, 0.3)  # denoise of a KSampler; with Wan's shift 0.5 is a noise level of 0.89
NONE = "no transfer"
GROUPS = {"near": "entropy_edit", "far": "entropy_edit_far"}


@torch.inference_mode()
def run(quick: bool = False) -> list[Check]:
    """Kept structure and obeyed prompt for each way, of near and, unless quick, of far pairs."""
    checks: list[Check] = []
    for kind in list(GROUPS)[: 1 if quick else None]:
        pairs = make_pairs(kind, 2 if quick else 32)
        trial = _trial(pairs)
        ways = _ways(trial)
        if quick:
            ways = dict(list(ways.items())[:2])
        rows = _rows(trial, pairs, ways, () if quick else NOISED)
        checks += table_of(
            {f"{kind}, {name}": row for name, row in rows.items()}, f"{kind}, {NONE}"
        )
    return checks


def _trial(pairs: Pairs) -> Trial:
    """Source and target in turn, both from the noise of the pair."""
    scenes = [s for pair in zip(pairs.sources, pairs.targets, strict=True) for s in pair]
    seeds = [seed for seed in pairs.seeds for _ in range(2)]
    return make_trial(scenes, seeds, SamplerSettings(steps=STEPS))


def _ways(trial: Trial) -> dict[str, Way]:
    low, high = (entropy_layers(trial, SHARE, side) for side in ("low", "high"))
    named = {"low-entropy": low, "high-entropy": high}
    ways: dict[str, Way] = {NONE: lambda _: trial.model}
    for name, layers in named.items():
        ways[f"{name} layers {', '.join(map(str, layers))}"] = _transferred(trial, layers)
    ways["all layers"] = _transferred(trial, range(layer_count(trial.model)))
    ways["random layers, as many"] = lambda number: edited(
        trial.model, PairTransfer(1.0), random_layers(trial, low, number)
    )
    return ways


def _transferred(trial: Trial, layers: Sequence[int]) -> Way:
    return lambda _: edited(trial.model, PairTransfer(1.0), layers)


def _rows(
    trial: Trial, pairs: Pairs, ways: dict[str, Way], noised: Sequence[float]
) -> dict[str, Numbers]:
    plain = trial.latents(ways[NONE])
    source = decode_clips(trial.vae, plain[0::2])
    seen = read(source)
    rows = {}
    for name, way in ways.items():
        latents = plain if name == NONE else trial.latents(way)
        clips = decode_clips(trial.vae, latents[1::2])
        rows[name] = _numbers(clips, source, seen, pairs)
    for share in noised:
        clips = decode_clips(trial.vae, _noised_start(trial, plain[0::2], share))
        rows[f"noised start {share:g}"] = _numbers(clips, source, seen, pairs)
    return rows


def _noised_start(trial: Trial, sources: Tensor, share: float) -> Tensor:
    """The source's latents, noised with the pair's noise, denoised with the target's prompt."""
    parts: list[Tensor] = []
    for start in range(0, len(sources), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        prompts = [scene.prompt for scene in trial.scenes[1::2][rows]]
        seeds = trial.seeds[1::2][rows]
        parts.append(
            comfy.sample.sample(
                trial.model,
                torch.cat([noise_of(seed) for seed in seeds]),
                trial.settings.steps,
                trial.settings.cfg,
                trial.settings.sampler,
                trial.settings.scheduler,
                encode_prompts(trial.clip, prompts),
                encode_prompts(trial.clip, [""] * len(prompts)),
                sources[rows],
                denoise=share,
                disable_pbar=True,
                seed=seeds[0],
            )
        )
    return torch.cat(parts)


def _numbers(clips: Tensor, source: Tensor, seen: Reading, pairs: Pairs) -> Numbers:
    reading = read(clips)
    target, origin = (
        torch.stack([*reading.agrees(scenes).values()]).float().mean(0)
        for scenes in (pairs.targets, pairs.sources)
    )
    return {
        "SSIM with the source": likeness(clips, source),
        "track apart from the source (px)": track_distance(reading, seen),
        "background apart from the source": background_distance(reading, seen),
        "words of the target shown": target,
        "words of the source shown": origin,
    }
