"""Are planted sinks found, what does skipping them change, and have the toy models any?

The planted models are tiny Wans of random weights in which chosen heads look at one token, whose
value is tiny. Change is that of the sampled latent, as a share of its norm.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...vdit_core.edits.gate import Skip
from ...vdit_core.host.comfy import attach, head_counts
from ...vdit_core.host.toy_evaluation import HELD_OUT
from ...vdit_core.host.toy_sampling import SamplerSettings, sample_latents
from ...vdit_core.host.toy_world import load_toy_world
from ...vdit_core.merging import merged
from ...vdit_core.program import Asker, Capture, Edit
from ...vdit_core.random_heads import random_heads
from ...vdit_core.record import Record, RecordData
from ...vdit_core.selection import parse_heads, parse_selection, write_heads
from ...vdit_core.sinks import Sinks, find_sinks
from ...vdit_core.toy.clips import random_scenes
from ..checks import Check, at_least, at_most
from ..planted import WAN_CONFIG, marked_noise, plant_wan
from ..tiny_wan import HEADS, LAYERS, TOKENS, empty_latent, prompt, sample, tiny_wan

SINKS = {0: (1,), 2: (0, 3)}
LOCAL = (1,)
TAU, LOW = 0.3, 0.1  # the default of VDiT Detect Sinks; from here on a toy model has one
TAUS = (0.05, LOW, TAU, 0.5, 0.9)
WEAK = 0.9  # sharpness at which most weights at a sink are below 0.5; by default they are about 1
TOY_STEPS = 10


@dataclass(frozen=True)
class Start:
    """What a sampling of a planted model begins with. noise: [1, 16, F, R, C], one token marked."""

    seed: int
    noise: Tensor

    @classmethod
    def of(cls, seed: int) -> Start:
        noise: Any = comfy.sample.prepare_noise(empty_latent()["samples"], seed)
        return cls(seed, marked_noise(noise, (37 * seed + 11) % TOKENS))

    def sample(self, model: ModelPatcher) -> Tensor:
        texts = prompt(self.seed), prompt(0)
        return sample(model, positive=texts[0], negative=texts[1], noise=self.noise, seed=self.seed)


def run(quick: bool = False) -> list[Check]:
    """Precision and recall over τ, skipping against random, and the toy models' own sinks."""
    starts = [Start.of(seed) for seed in range(1, 9 if quick else 17)]
    return [
        *_detection(starts),
        *_skipping(starts[:4] if quick else starts, 4 if quick else 16),
        *_natural(4 if quick else 16),
    ]


def _detection(starts: Sequence[Start]) -> list[Check]:
    strong, weak = _planted(), _planted(sharpness=WEAK)
    none = _planted(sinks={})
    found = {
        name: _records(model, starts, TAUS)
        for name, model in (("strong", strong), ("weak", weak), ("none", none))
    }
    note = f"{len(starts)} prompts, {sum(map(len, SINKS.values()))} of {LAYERS * HEADS} heads"
    checks: list[Check] = []
    for tau in TAUS:
        right, given = _matches(_sinks(found["strong"][tau], tau))
        checks.append(at_least(f"planted sinks, τ {tau}: precision", right / max(1, given), 1.0))
        checks.append(at_least(f"planted sinks, τ {tau}: recall", right / 3, 1.0, note=note))
    for tau in TAUS:
        right, given = _matches(_sinks(found["weak"][tau], tau))
        name, note = f"weaker sinks, τ {tau}", f"{given} heads found"
        checks.append(Check(f"{name}: recall", right / 3, note=note))
        checks.append(at_most(f"{name}: heads found that are none", given - right, 0))
    for tau in TAUS:
        _, given = _matches(_sinks(found["none"][tau], tau))
        checks.append(at_most(f"no sinks planted, τ {tau}: heads found", given, 0))
    return checks


def _skipping(starts: Sequence[Start], draws: int) -> list[Check]:
    model = _planted()
    counts = head_counts(model)
    planted = write_heads(SINKS, counts)
    texts = [
        write_heads(random_heads(SINKS, counts, "all layers", seed), counts)
        for seed in range(draws)
    ]
    sinks, others = list[float](), list[float]()
    for start in starts:
        whole = start.sample(model)
        sinks.append(_change(start.sample(_without(model, planted)), whole))
        others += (_change(start.sample(_without(model, text)), whole) for text in texts)
    note = f"{len(starts)} prompts, {draws} draws of {sum(map(len, SINKS.values()))} heads each"
    return [
        Check("skipping the sinks changes the latent by", statistics.median(sinks), note=note),
        Check("skipping random heads, median", statistics.median(others), note=_spread(others)),
        at_most("largest change by sinks / smallest by random", max(sinks) / min(others), 1.0),
    ]


def _natural(prompts: int) -> list[Check]:
    """The toy models' own sinks: the largest coverage at each τ, and what skipping them changes."""
    checks: list[Check] = []
    for variant in ("wan", "mochi"):
        toy = Toy.of(variant, prompts)
        watched, records = _watched(toy.model, (LOW, TAU), f"0,{TOY_STEPS // 2},-1")
        runs: dict[float, list[RecordData]] = {tau: [] for tau in records}
        whole = list[Tensor]()
        for index in range(prompts):
            whole.append(toy.sample(watched, index))
            for tau, record in records.items():
                runs[tau].append(record.data)
        for tau, data in runs.items():
            sinks = _sinks(merged(data), tau)
            most = max(sinks.sightings, key=lambda s: s.coverage)
            where = f"layer {most.layer}, head {most.head}, a {most.place.kind} token"
            ever = sum(share > 0 for share in sinks.shares.values())
            note = f"{prompts} prompts; {where}; sinks: {sinks.text}; {ever} heads ever are one"
            name = f"toy {variant}, τ {tau}: largest coverage"
            checks.append(Check(name, 100 * most.coverage, "%", note=note))
            if tau == LOW and sinks.heads:
                checks += _skipping_natural(toy, sinks, whole)
    return checks


def _skipping_natural(toy: Toy, sinks: Sinks, whole: Sequence[Tensor]) -> list[Check]:
    counts = head_counts(toy.model)
    by_sinks, by_others = list[float](), list[float]()
    for index, video in enumerate(whole):
        without = toy.sample(_without(toy.model, sinks.text), index)
        by_sinks.append(_change(without, video))
        for draw in range(2):
            others = random_heads(sinks.heads, counts, "all layers", 2 * index + draw)
            without = toy.sample(_without(toy.model, write_heads(others, counts)), index)
            by_others.append(_change(without, video))
    more = sum(other > own for other, own in zip(by_others, _twice(by_sinks), strict=True))
    pairs = f"{len(by_others)} draws of as many heads, from all layers"
    name = f"toy {toy.variant}, its sinks at τ {LOW} skipped"
    return [
        Check(f"{name}: median change", statistics.median(by_sinks), note=_spread(by_sinks)),
        Check(f"{name}: by random heads", statistics.median(by_others), note=_spread(by_others)),
        Check(f"{name}: random heads change more in", 100 * more / len(by_others), "%", note=pairs),
    ]


@dataclass(frozen=True)
class Toy:
    """One of the toy models and the scenes it is asked for."""

    variant: str
    model: ModelPatcher
    clip: comfy.sd.CLIP
    prompts: tuple[str, ...]

    @classmethod
    def of(cls, variant: str, prompts: int) -> Toy:
        scenes = random_scenes(prompts, torch.Generator().manual_seed(HELD_OUT))
        model, clip, _ = load_toy_world(variant=variant)
        return cls(variant, model, clip, tuple(scene.prompt for scene in scenes))

    def sample(self, model: ModelPatcher, index: int) -> Tensor:
        settings = SamplerSettings(steps=TOY_STEPS)
        with torch.inference_mode():
            return sample_latents(
                model, self.clip, self.prompts[index : index + 1], [HELD_OUT + index], settings
            )


def _planted(
    sinks: Mapping[int, Sequence[int]] = SINKS, sharpness: float | None = None
) -> ModelPatcher:
    model = tiny_wan(**WAN_CONFIG)
    how = {} if sharpness is None else {"sharpness": sharpness}
    plant_wan(model, sinks, LOCAL, **how)
    return model


def _watched(
    model: ModelPatcher, taus: Sequence[float], steps: str
) -> tuple[ModelPatcher, dict[float, Record]]:
    """The model with a capture for each τ: what is heavy is counted while it samples."""
    where, at = parse_heads("all:*"), parse_selection(steps, "steps")
    records = {tau: Record() for tau in taus}
    for tau, record in records.items():
        asked = Capture(Asker("sinks"), where, at, record, map_size=8, more=("sinks",), tau=tau)
        model = attach(model, asked)
    return model, records


def _records(
    model: ModelPatcher, starts: Sequence[Start], taus: Sequence[float]
) -> dict[float, RecordData]:
    watched, records = _watched(model, taus, "all")
    runs: dict[float, list[RecordData]] = {tau: [] for tau in taus}
    for start in starts:
        start.sample(watched)
        for tau, record in records.items():
            runs[tau].append(record.data)
    return {tau: merged(data) for tau, data in runs.items()}


def _sinks(data: RecordData, tau: float) -> Sinks:
    steps = parse_selection("all", "steps")
    return find_sinks(data, weight=tau, coverage=0.5, frequency=0.5, steps=steps, branch="both")


def _matches(sinks: Sinks) -> tuple[int, int]:
    """How many of the heads found are planted, and how many were found."""
    found = {(layer, head) for layer, heads in sinks.heads.items() for head in heads}
    planted = {(layer, head) for layer, heads in SINKS.items() for head in heads}
    return len(found & planted), len(found)


def _without(model: ModelPatcher, heads: str) -> ModelPatcher:
    return attach(model, Edit(Asker("skip"), Skip(), parse_heads(heads)))


def _change(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def _spread(changes: Sequence[float]) -> str:
    return f"{len(changes)} samplings, {min(changes):.3g} to {max(changes):.3g}"


def _twice(values: Sequence[float]) -> list[float]:
    return [value for value in values for _ in range(2)]
