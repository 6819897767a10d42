"""Edits of rendered clips, whose truth is known: is the background kept, is the prompt obeyed?

Of 32 clips one half is to change its colour, the other its shape; the target prompt says so and
nothing else. Each way to edit is one sampling of 8 steps from the same noise; quickly, of 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn.functional import max_pool2d

from ...vdit_core.edits.footage import FollowFootage
from ...vdit_core.footage import Footage, read_mask
from ...vdit_core.host.comfy import attach, layer_count
from ...vdit_core.host.toy_sampling import decode_clips, encode_clips, encode_prompts
from ...vdit_core.host.toy_world import load_toy_world
from ...vdit_core.program import Asker, Edit
from ...vdit_core.selection import parse_values, parse_where
from ...vdit_core.toy.clips import COLOURS, SHAPES, Scene, random_scenes, render_with_objects
from ...vdit_core.toy.reading import FIELDS, read, track_distance
from ..checks import Check
from ..variants import mean_of

FIRST_SEED = 41_000
STEPS, QUICK_STEPS = 8, 3
GROWN = 6  # pixels by which the mask is wider than the object
RIM = 3  # pixels around the object that are not counted as background
CHANGED = {"colour": len(COLOURS), "shape": len(SHAPES)}


@dataclass(frozen=True)
class Clip:
    """Footage and what is to become of it. video: [3, F, R, C]. latent: [1, 16, 5, 8, 8].

    field: the word of the prompt that changes. own: shares of the latent's places in the mask.
    """

    video: Tensor
    latent: Tensor
    noise: Tensor
    own: Tensor
    source: Scene
    target: Scene
    field: str


@dataclass(frozen=True)
class Way:
    """One way to edit. maps: strengths of the footage's maps, layer by layer; None: no pair.

    masked: in attention; held: as ComfyUI's noise mask.
    """

    maps: str | None = None
    masked: bool = False
    held: bool = False
    denoise: float = 1.0


WAYS = {
    "target prompt alone": Way(),
    "noised start (SDEdit), denoise 0.5": Way(denoise=0.5),
    "noised start (SDEdit), denoise 0.7": Way(denoise=0.7),
    "maps in layers 1-4": Way("1-4=1"),
    "maps in all layers": Way("all=1"),
    "noise mask alone": Way(held=True),
    "mask in attention": Way("all=0", masked=True),
    "mask in attention, background held": Way("all=0", masked=True, held=True),
    "the same with maps in layers 0-2": Way("0-2=1", masked=True, held=True),
    "the same with maps in all layers": Way("all=1", masked=True, held=True),
}


@torch.inference_mode()
def run(quick: bool = False) -> list[Check]:
    """Background error and words shown, of every way to edit."""
    model, text, vae = load_toy_world()
    clips = make_clips(vae, 2 if quick else 32)
    toy = _Toy(model, text, vae, QUICK_STEPS if quick else STEPS)
    (vae_alone, *_) = _checks("VAE alone", toy.seen([clip.latent for clip in clips]), clips)
    checks = [replace(vae_alone, name=vae_alone.name.replace(":", ","))]  # no row of the table
    for name, way in WAYS.items():
        checks += _checks(name, toy.seen([toy.edited(clip, way) for clip in clips]), clips)
    return checks


def make_clips(vae: comfy.sd.VAE, count: int) -> list[Clip]:
    """Clips whose colour and whose shape are to change, in turn."""
    generator = torch.Generator().manual_seed(FIRST_SEED)
    scenes = random_scenes(count, generator)
    videos, objects = render_with_objects(scenes, generator)
    masks = max_pool2d((objects > 0.05).float(), 2 * GROWN + 1, 1, GROWN)
    clips: list[Clip] = []
    for n, scene in enumerate(scenes):
        latent = encode_clips(vae, videos[n : n + 1])
        noise: Any = comfy.sample.prepare_noise(latent, FIRST_SEED + n)
        own, field = read_mask(masks[n], latent.shape, 4), tuple(CHANGED)[n % 2]
        assert own is not None
        step = 1 + int(torch.randint(CHANGED[field] - 1, (), generator=generator))
        word = (getattr(scene, field) + step) % CHANGED[field]
        target = replace(scene, **{field: word})
        clips.append(Clip(videos[n], latent, noise, own, scene, target, field))
    return clips


class _Toy:
    """The toy model, and what it makes of a clip."""

    def __init__(
        self, model: ModelPatcher, text: comfy.sd.CLIP, vae: comfy.sd.VAE, steps: int
    ) -> None:
        self.model, self.text, self.vae, self.steps = model, text, vae, steps

    def edited(self, clip: Clip, way: Way) -> Tensor:
        """The latent of the edit, [1, 16, 5, 8, 8]."""
        prompts, model, rows = [clip.target.prompt], self.model, 1
        if way.maps is not None:
            footage = Footage(clip.latent, clip.own if way.masked else None)
            strengths = parse_values(way.maps).resolve(layer_count(model), 0.0)
            change, where = FollowFootage(footage, strengths), parse_where("all", "all")
            model = attach(model, Edit(Asker("footage study"), change, where))
            prompts, rows = [clip.source.prompt, *prompts], 2
        latent = comfy.sample.sample(
            model,
            clip.noise.repeat(rows, 1, 1, 1, 1),
            self.steps,
            2.0,
            "euler",
            "simple",
            encode_prompts(self.text, prompts),
            encode_prompts(self.text, [""] * rows),
            clip.latent.repeat(rows, 1, 1, 1, 1),
            denoise=way.denoise,
            noise_mask=clip.own[None, None] if way.held else None,
            disable_pbar=True,
        )
        return latent[-1:]

    def seen(self, latents: list[Tensor]) -> Tensor:
        """Decoded clips, [B, 3, F, R, C]."""
        return decode_clips(self.vae, torch.cat(latents))


def _checks(name: str, videos: Tensor, clips: list[Clip]) -> list[Check]:
    truth = torch.stack([clip.video for clip in clips])
    shown, was = read(videos), read(truth)
    agrees = shown.agrees([clip.target for clip in clips])
    changed = torch.stack([agrees[clip.field][n] for n, clip in enumerate(clips)])
    kept = torch.stack(
        [torch.stack([agrees[f][n] for f in FIELDS if f != c.field]) for n, c in enumerate(clips)]
    )
    numbers = {
        "background off the footage's": (_background(videos, truth, was.mask), "grey, 0 to 1"),
        "the changed word is shown": (changed.double(), "share"),
        "all other words are shown": (kept.all(1).double(), "share"),
        "object off the footage's path": (track_distance(shown, was), "px"),
    }
    return [mean_of(f"{name}: {what}", *number, of="clips") for what, number in numbers.items()]


def _background(videos: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference outside of the footage's object and its rim, [B]."""
    seen = max_pool2d(mask.float(), 2 * RIM + 1, 1, RIM) == 0
    difference = (videos - truth).abs().mean(1) * seen
    return difference.flatten(1).sum(1) / seen.flatten(1).sum(1)
