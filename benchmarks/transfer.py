"""What transferring attention maps does on the toy world: kept structure against obeyed prompt.

For near pairs (only the colour word differs) and far pairs (all words differ), 32 seeds each: the
edited video is compared with its source (distance of the objects' tracks, grey-level difference of
the backgrounds) and with both prompts (share of words it shows), without transfer, with transfer in
all layers, in each single layer, and with the maps of an unrelated video as a control.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..vdit_core.edits.transfer import PairTransfer
from ..vdit_core.host.comfy import layer_count
from ..vdit_core.host.toy_sampling import SamplerSettings, decode_clips, sample_latents
from ..vdit_core.host.toy_world import load_toy_world
from ..vdit_core.toy.clips import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene, random_scenes
from ..vdit_core.toy.reading import Reading, background_distance, read, track_distance
from .checks import Check
from .variants import edited

FIRST_SEED = 90_000
AT_ONCE = 8  # pairs per sampling
STEPS = 6
SIZES = {
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "background": len(BACKGROUNDS),
    "motion": len(MOTIONS),
}


@dataclass(frozen=True)
class Pairs:
    """Sources and targets, one seed per pair. kind: near or far."""

    kind: str
    sources: list[Scene]
    targets: list[Scene]
    seeds: list[int]


@dataclass(frozen=True)
class Outcome:
    """Means over the pairs. track: pixels; background: grey levels; words: shares in 0..1."""

    track: float
    background: float
    source_words: float
    target_words: float
    spread: float  # standard deviation of the track distance over pairs


@torch.inference_mode()
def study(kind: str, quick: bool) -> list[Check]:
    """All measurements on one kind of pairs."""
    count = 4 if quick else 32
    checks: list[Check] = []
    for name, outcome in outcomes(make_pairs(kind, count)).items():
        checks += _checks(f"transfer, {kind} pairs, {name}", outcome, count)
    return checks


def make_pairs(kind: str, count: int) -> Pairs:
    """Random sources; targets that differ in the colour (near) or in every word (far)."""
    generator = torch.Generator().manual_seed(FIRST_SEED + len(kind))
    sources = random_scenes(count, generator)
    changed = ("colour",) if kind == "near" else tuple(SIZES)
    targets = [_changed(scene, changed, generator) for scene in sources]
    return Pairs(kind, sources, targets, [FIRST_SEED + i for i in range(count)])


def outcomes(pairs: Pairs, settings: SamplerSettings | None = None) -> dict[str, Outcome]:
    """The outcome of every way to transfer, by its name."""
    settings = settings or SamplerSettings(steps=STEPS)
    model, clip, vae = load_toy_world()
    everywhere = range(layer_count(model))

    def latents(patched: ModelPatcher, sources: Sequence[Scene], seeds: Sequence[int]) -> Tensor:
        """Source and target rows in turn, [2·n, 16, 5, 8, 8]."""
        parts: list[Tensor] = []
        for start in range(0, len(seeds), AT_ONCE):
            chosen = range(start, min(start + AT_ONCE, len(seeds)))
            prompts = [s.prompt for i in chosen for s in (sources[i], pairs.targets[i])]
            noise = [s for i in chosen for s in (seeds[i], pairs.seeds[i])]
            parts.append(sample_latents(patched, clip, prompts, noise, settings))
        return torch.cat(parts)

    def seen(rows: Tensor) -> Reading:
        return read(decode_clips(vae, rows))

    plain = latents(model, pairs.sources, pairs.seeds)
    source = seen(plain[0::2])
    found = {"no transfer": _outcome(seen(plain[1::2]), source, pairs)}
    where: dict[str, Sequence[int]] = {"all layers": everywhere}
    where |= {f"layer {i}": [i] for i in everywhere}
    for name, layers in where.items():
        rows = latents(edited(model, PairTransfer(1.0), layers), pairs.sources, pairs.seeds)
        found[name] = _outcome(seen(rows[1::2]), source, pairs)
    strangers = random_scenes(len(pairs.seeds), torch.Generator().manual_seed(FIRST_SEED - 1))
    unrelated = edited(model, PairTransfer(1.0), everywhere)
    rows = latents(unrelated, strangers, [seed + 5000 for seed in pairs.seeds])
    found["all layers, unrelated source"] = _outcome(seen(rows[1::2]), source, pairs)
    return found


def _outcome(made: Reading, source: Reading, pairs: Pairs) -> Outcome:
    track = track_distance(made, source)
    track = track[~track.isnan()]
    return Outcome(
        track.mean().item(),
        background_distance(made, source).mean().item(),
        _share(made, pairs.sources),
        _share(made, pairs.targets),
        track.std().item(),
    )


def _share(reading: Reading, scenes: list[Scene]) -> float:
    return torch.stack(list(reading.agrees(scenes).values())).float().mean().item()


def _changed(scene: Scene, words: tuple[str, ...], generator: torch.Generator) -> Scene:
    """The scene with each of the given words replaced by another one."""
    new: dict[str, int] = {}
    for word in words:
        step = 1 + int(torch.randint(SIZES[word] - 1, (), generator=generator))
        new[word] = (getattr(scene, word) + step) % SIZES[word]
    return replace(scene, **new)


def _checks(name: str, outcome: Outcome, count: int) -> list[Check]:
    note = f"{count} pairs; standard deviation of the track distance {outcome.spread:.1f} px"
    values = [
        ("track distance to the source", outcome.track, "px"),
        ("background difference to the source", outcome.background, "grey level, 0 to 1"),
        ("words of the source prompt shown", outcome.source_words, "share"),
        ("words of the target prompt shown", outcome.target_words, "share"),
    ]
    return [Check(f"{name}: {what}", value, unit, note=note) for what, value, unit in values]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--kinds", nargs="+", default=["near", "far"])
    options = parser.parse_args()
    for kind in options.kinds:
        for name, o in outcomes(make_pairs(kind, options.pairs)).items():
            print(
                f"{kind:5} {name:30} track {o.track:5.1f} ± {o.spread:4.1f} px  "
                f"background {o.background:.3f}  source words {o.source_words:.2f}  "
                f"target words {o.target_words:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
