"""Sample the toy Wan in many ways from the same seeds, and read what comes out, clip by clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..vdit_core.choosing import recorded_shares
from ..vdit_core.edits import Change
from ..vdit_core.figures.scores import score
from ..vdit_core.host.comfy import attach, layer_count
from ..vdit_core.host.toy_sampling import AT_ONCE, SamplerSettings, decode_clips, sample_latents
from ..vdit_core.host.toy_world import load_toy_world
from ..vdit_core.program import Asker, Capture, Edit
from ..vdit_core.ranking import Numbers as RankNumbers
from ..vdit_core.ranking import Side, share_of
from ..vdit_core.record import Record
from ..vdit_core.selection import parse_selection, parse_where
from ..vdit_core.toy.clips import Scene
from ..vdit_core.toy.reading import FIELDS, read
from ..vdit_core.video_metrics import quality_of
from .checks import Check

UNITS = {"sharpness": "levels²", "SSIM": "1 = alike"}

Numbers = dict[str, Tensor]  # [clips] each, by what is measured
Way = Callable[[int], ModelPatcher]  # number of the batch → what it is sampled with


@dataclass(frozen=True)
class Trial:
    """A toy model and what every way to sample it is given, in batches of AT_ONCE clips."""

    model: ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    scenes: Sequence[Scene]
    seeds: Sequence[int]
    settings: SamplerSettings

    def latents(self, way: Way) -> Tensor:
        """[clips, 16, 5, 8, 8]"""
        parts: list[Tensor] = []
        for number, start in enumerate(range(0, len(self.seeds), AT_ONCE)):
            rows = slice(start, start + AT_ONCE)
            prompts = [scene.prompt for scene in self.scenes[rows]]
            given = way(number), self.clip, prompts, self.seeds[rows], self.settings
            parts.append(sample_latents(*given))
        return torch.cat(parts)

    def clips(self, way: Way) -> Tensor:
        """[clips, 3, F, R, C] in 0..1"""
        return decode_clips(self.vae, self.latents(way))


def make_trial(scenes: Sequence[Scene], seeds: Sequence[int], settings: SamplerSettings) -> Trial:
    return Trial(*load_toy_world(), scenes, seeds, settings)


def edited(model: ModelPatcher, change: Change, layers: Collection[int]) -> ModelPatcher:
    """The model with one change in these layers."""
    where = parse_where(",".join(map(str, sorted(layers))), "all")
    return attach(model, Edit(Asker("study"), change, where))


def entropies(trial: Trial) -> RankNumbers:
    """Row entropy as a share of the largest, by layer and head: cond, first step, one batch."""
    record, everything = Record(), parse_where("all", "all")
    asked = Capture(Asker("study"), everything, parse_selection("0", "steps"), record, "cond")
    watched = attach(trial.model, asked)
    prompts = [scene.prompt for scene in trial.scenes[:AT_ONCE]]
    sample_latents(watched, trial.clip, prompts, trial.seeds[:AT_ONCE], trial.settings)
    return recorded_shares(record.data)


def entropy_layers(trial: Trial, share: float, side: Side) -> tuple[int, ...]:
    """The share of layers that look widest, or narrowest."""
    return tuple(share_of(entropies(trial), share, side))


def random_layers(trial: Trial, chosen: Collection[int], number: int) -> tuple[int, ...]:
    """As many layers, others for each number, but never just the chosen ones."""
    generator = torch.Generator().manual_seed(number)
    while True:
        order = torch.randperm(layer_count(trial.model), generator=generator).tolist()
        drawn = tuple(sorted(order[: len(chosen)]))
        if drawn != tuple(sorted(chosen)):
            return drawn


def numbers_of(clips: Tensor, scenes: Sequence[Scene]) -> Numbers:
    """Words that are right (1 or 0; `words` is the share of all four), and the video's quality."""
    right = {f"{name} right": yes.float() for name, yes in read(clips).agrees(scenes).items()}
    words = torch.stack([right[f"{name} right"] for name in FIELDS]).mean(0)
    qualities = [quality_of(clip.movedim(0, -1)) for clip in clips]
    own = {
        name: torch.stack([getattr(quality, name).mean() for quality in qualities])
        for name in ("consistency", "sharpness")
    }
    return {**right, "words right": words, **own}


def likeness(clips: Tensor, others: Tensor) -> Tensor:
    """SSIM of each clip with another, mean over frames. [clips]"""
    pairs = zip(clips.movedim(1, -1), others.movedim(1, -1), strict=True)
    return torch.tensor([score(a, b).ssim for a, b in pairs])


def table_of(ways: Mapping[str, Numbers], plain: str, group: str = "") -> list[Check]:
    """A row for each way: means, their spread over the clips, and what they are against `plain`."""
    return [
        _check(way, name, values, None if way == plain else (plain, ways[plain][name]), group)
        for way, numbers in ways.items()
        for name, values in numbers.items()
    ]


def _check(
    way: str, name: str, values: Tensor, plain: tuple[str, Tensor] | None, group: str
) -> Check:
    unit = UNITS.get(name, "share" if name.endswith(("right", "shown")) else "")
    found = mean_of(f"{way}: {name}", values, unit)
    against = "" if plain is None else _against(*plain, values)
    return replace(found, note=found.note + against, group=group)


def mean_of(name: str, values: Tensor, unit: str, of: str = "seeds") -> Check:
    """Mean and spread over the clips, [clips]; the note counts them, and calls them `of`.

    Those without a value (no object to be seen) are left out.
    """
    known = values[~values.isnan()].double()
    note = f"{len(known)} {of}; ± is the standard deviation over them"
    return Check(name, float(known.mean()), unit, note=note, spread=float(known.std()))


def _against(name: str, plain: Tensor, values: Tensor) -> str:
    """The mean difference over the clips that have both, with its standard error."""
    apart = (values - plain).double()
    apart = apart[~apart.isnan()]
    if len(apart) < 2:
        return ""
    error = float(apart.std()) / math.sqrt(len(apart))
    return f"; {float(apart.mean()):+.3g} ± {error:.2g} (standard error) against {name}"
