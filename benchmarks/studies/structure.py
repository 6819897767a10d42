"""Are distances, likeness and text attention told right, and do the claims of Fig. 1 and 6 show?

First planted models, tiny Wans whose layer 1 is local and whose other layers are flat, where the
answer is known; then the toy models, where the claims of 2504.10317 are put in numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...vdit_core.figures.likeness import map_likeness
from ...vdit_core.figures.panels import Chosen
from ...vdit_core.figures.text_attention import TextOfLayer, text_of_layers
from ...vdit_core.grid import TokenGrid
from ...vdit_core.host.comfy import attach
from ...vdit_core.host.toy_evaluation import HELD_OUT
from ...vdit_core.host.toy_sampling import SamplerSettings, sample_latents
from ...vdit_core.host.toy_world import load_toy_world
from ...vdit_core.program import Asker, Capture
from ...vdit_core.record import Record, RecordData
from ...vdit_core.selection import parse_selection, parse_where
from ...vdit_core.toy.clips import random_scenes
from ..checks import Check, at_least, at_most
from ..planted import WAN_CONFIG, plant_wan
from ..tiny_wan import COLS, FRAMES, ROWS, prompt, sample, tiny_wan

LOCAL, FLAT = 1, (0, 2)  # layers of the planted model
GRID = TokenGrid(FRAMES, ROWS, COLS)
MAP_SIZE, TOY_STEPS = 80, 4
ALWAYS = parse_selection("all", "layers")
MID = parse_selection("mid", "steps")


def run(quick: bool = False) -> list[Check]:
    """Planted truths first, then the toy models with 4 or 16 prompts."""
    prompts = 4 if quick else 16
    return [*_planted(), *_across_prompts("wan", prompts), *_across_prompts("mochi", prompts)]


def _planted() -> list[Check]:
    a, b = (_planted_record(seed) for seed in (1, 2))
    note = "mean of the heads, two prompts"
    local = [_mass(data, LOCAL) for data in (a, b)]
    near = min(float(mass[:2].sum()) for mass in local)
    frame = torch.arange(FRAMES)
    pairs = torch.bincount((frame[:, None] - frame).abs().flatten()) / FRAMES**2
    apart = max(
        float((_mass(data, layer) - pairs).abs().max()) for data in (a, b) for layer in FLAT
    )
    maps = [_maps(data) for data in (a, b)]
    alike = map_likeness(maps[0], maps[1], len(GRID))
    return [
        at_least("planted local layer: mass within one frame", near, 0.95, note=note),
        at_most("planted flat layers: mass by frame, off an even share by", apart, 0.01, note=note),
        at_least("planted local layer: likeness across prompts", float(alike[LOCAL, LOCAL]), 0.9),
        at_most(
            "planted: likeness of the local layer to flat ones",
            float(alike[LOCAL, list(FLAT)].nan_to_num(0).max()),
            0.5,
        ),
    ]


def _planted_record(seed: int) -> RecordData:
    model = tiny_wan(**WAN_CONFIG)
    plant_wan(model, {}, (LOCAL,))
    watched, record = _watched(model, "structure")
    sample(watched, positive=prompt(seed), negative=prompt(0), seed=seed)
    return record.data


@dataclass(frozen=True)
class Seen:
    """Of one prompt on a toy model.

    mass: [layers, F] by frame distance. maps: [layers, H, m, m].
    """

    mass: Tensor
    maps: Tensor
    text: list[TextOfLayer]


def _across_prompts(variant: str, count: int) -> list[Check]:
    seen = _sampled(variant, count)
    mass = torch.stack([one.mass for one in seen]).double()  # [prompts, layers, F]
    frames = mass.shape[-1]
    each = torch.tensor([1.0] + [2 * (frames - d) / frames for d in range(1, frames)]).double()
    per_frame = (mass / each).mean(0)  # of one frame at each distance
    fades = int((per_frame.diff(dim=-1) < 0).all(-1).sum())
    layers = len(per_frame)
    name = f"toy {variant}"
    note = f"{count} prompts, step {TOY_STEPS // 2} of {TOY_STEPS}"
    checks = [
        Check(f"{name}: mass on the own frame", float(per_frame[:, 0].mean()), note=note),
        Check(f"{name}: on one frame next to it", float(per_frame[:, 1].mean()), note=note),
        Check(f"{name}: on the farthest frame", float(per_frame[:, -1].mean()), note=note),
        Check(f"{name}: layers whose mass fades with every frame", fades, f"of {layers}"),
    ]
    return [*checks, *_likeness(name, seen), *_text(name, seen)]


def _likeness(name: str, seen: Sequence[Seen]) -> list[Check]:
    """Each prompt with the next one, so that every prompt counts twice."""
    keys = 320
    pairs = [
        map_likeness(a.maps, b.maps, keys) for a, b in zip(seen, [*seen[1:], seen[0]], strict=True)
    ]
    values = torch.stack(pairs)  # [pairs, layers, layers]
    same = values.diagonal(dim1=1, dim2=2)
    others = values[:, ~torch.eye(values.shape[1]).bool()]
    best = (values.argmax(2) == torch.arange(values.shape[1])).double().mean()
    note = f"{len(values)} pairs of prompts, head by head"
    return [
        Check(f"{name}: likeness of the same layer, two prompts", float(same.mean()), note=note),
        Check(f"{name}: likeness of different layers", float(others.mean()), note=note),
        Check(f"{name}: layers most alike to themselves", float(best), note=note),
    ]


def _text(name: str, seen: Sequence[Seen]) -> list[Check]:
    """The first token's share, beside an even one, and where the text attends to."""
    shares = torch.stack([torch.stack([t.share for t in one.text]) for one in seen])
    first = shares[..., 0].mean(0)  # [layers]
    even = 1 / shares.shape[-1]
    note = f"largest in layer {int(first.argmax())}: {float(first.max()):.3f}"
    checks = [
        Check(f"{name}: first token's share of the text's mass", float(first.mean()), note=note),
        Check(f"{name}: an even share", even, note=f"{shares.shape[-1]} tokens"),
    ]
    own = [[t.own_mass for t in one.text] for one in seen]
    if own[0][0] is not None:
        of_layers = torch.tensor(own, dtype=torch.float64).mean(0)
        top = int(of_layers.argmax())
        title = f"{name}: mass of text on text, at most"
        checks.append(Check(title, float(of_layers.max()), note=f"in layer {top}"))
    return checks


@torch.inference_mode()
def _sampled(variant: str, count: int) -> list[Seen]:
    model, clip, _ = load_toy_world(variant=variant)
    scenes = random_scenes(count, torch.Generator().manual_seed(HELD_OUT + 1))
    return [
        _seen(model, clip, scene.prompt, HELD_OUT + number) for number, scene in enumerate(scenes)
    ]


def _seen(model: ModelPatcher, clip: comfy.sd.CLIP, words: str, seed: int) -> Seen:
    watched, record = _watched(model, "structure", "text")
    sample_latents(watched, clip, [words], [seed], SamplerSettings(steps=TOY_STEPS))
    data = record.data
    layers = range(data.header.layers)
    _, text = text_of_layers(data, Chosen(ALWAYS, "mean", MID, "both"))
    return Seen(torch.stack([_mass(data, layer) for layer in layers]), _maps(data), text)


def _watched(model: ModelPatcher, *more: str) -> tuple[ModelPatcher, Record]:
    record, where = Record(), parse_where("all", "all")
    spec = Capture(Asker("capture"), where, MID, record, "cond", MAP_SIZE, more)
    return attach(model, spec), record


def _mass(data: RecordData, layer: int) -> Tensor:
    """By frame distance, mean of the heads, as a share of what goes to the video, [F]."""
    (found,) = (m for m in data.measurements if m.layer == layer)
    assert found.measures.frame_distance_mass is not None
    mass = found.measures.frame_distance_mass.mean(0)
    return mass / mass.sum()


def _maps(data: RecordData) -> Tensor:
    ordered = sorted(data.measurements, key=lambda m: m.layer)
    return torch.stack([m.measures.pooled_map for m in ordered])
