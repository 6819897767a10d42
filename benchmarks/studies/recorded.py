"""Recorded transfer against the transfer of a pair, on the toy world: the same videos?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from torch import Tensor

from ...vdit_core.edits import Change
from ...vdit_core.edits.replay import Replay
from ...vdit_core.edits.transfer import PairTransfer
from ...vdit_core.host.comfy import attach
from ...vdit_core.host.toy_sampling import SamplerSettings, sample_latents
from ...vdit_core.host.toy_world import load_toy_world
from ...vdit_core.program import Asker, Edit, Keep
from ...vdit_core.selection import parse_where
from ...vdit_core.sources import Folder, Memory, Shelf, Source
from ..checks import Check, at_most
from ..transfer import Pairs, make_pairs

SETTINGS = SamplerSettings(steps=4)
WHERE = parse_where("1-4", "all")
AT_ONCE = 2  # pairs, so that a sampling has four rows


@torch.inference_mode()
def run(quick: bool = False) -> list[Check]:
    """32 pairs, half of them near: bits of equal batches, rounding of others, what bf16 costs."""
    model, clip, _ = load_toy_world()
    pairs = [make_pairs(kind, 2 if quick else 16) for kind in ("near", "far")]
    bench = _Bench(model, clip)
    found = [bench.compare(part) for many in pairs for part in _parts(many)]
    plain, pair, same, disk, alone, coarse = (torch.cat(each) for each in zip(*found, strict=True))
    note = f"{len(pair)} pairs, 4 steps, layers 1 to 4"

    def share(name: str, other: Tensor, limit: float) -> Check:
        """Apart from the pair's video, as a share of what the transfer changes; the worst."""
        apart, changed = ((pair - x).flatten(1).norm(dim=1) for x in (other, plain))
        value = float((apart / changed).max())
        return at_most(f"{name}: worst difference / change", value, limit, note=note)

    return [
        at_most("fp32, equal batches: values that differ", _differing(same, pair), 0, note=note),
        at_most("disk, not memory: values that differ", _differing(disk, same), 0, note=note),
        share("fp32, batches of half the size", alone, 1e-4),
        share("bf16, batches of half the size", coarse, 0.2),
    ]


@dataclass
class _Bench:
    model: ModelPatcher
    clip: CLIP

    def compare(self, pairs: Pairs) -> tuple[Tensor, ...]:
        """Edited videos: without an edit, as pairs, replayed in batches of equal size, the same
        from disk, in batches of half the size, and kept as bf16."""
        both = [s.prompt for each in zip(pairs.sources, pairs.targets, strict=True) for s in each]
        twice = [seed for seed in pairs.seeds for _ in range(2)]
        targets = [prompt for prompt in both[1::2] for _ in range(2)]
        transferring = self._edited(PairTransfer(1.0))
        same = self._replayed(self._kept(pairs, 2), targets, twice)[1::2]
        with TemporaryDirectory() as folder:
            kept = self._kept(pairs, 2, shelf=Folder(Path(folder) / "source"))
            disk = self._replayed(kept, targets, twice)[1::2]
        alone, coarse = (
            self._replayed(self._kept(pairs, 1, dtype), both[1::2], pairs.seeds)
            for dtype in ("fp32", "bf16")
        )
        plain = self._sample(self.model, both[1::2], pairs.seeds)
        return plain, self._sample(transferring, both, twice)[1::2], same, disk, alone, coarse

    def _kept(
        self, pairs: Pairs, copies: int, dtype: str = "fp32", shelf: Shelf | None = None
    ) -> Source:
        source = Source(shelf or Memory(lambda: 2**40))
        keeping = attach(self.model, Keep(Asker("study"), WHERE, source, dtype=dtype))
        prompts = [scene.prompt for scene in pairs.sources for _ in range(copies)]
        self._sample(keeping, prompts, [seed for seed in pairs.seeds for _ in range(copies)])
        return source

    def _replayed(self, source: Source, prompts: list[str], seeds: list[int]) -> Tensor:
        return self._sample(self._edited(Replay(source, 1.0)), prompts, seeds)

    def _edited(self, change: Change) -> ModelPatcher:
        return attach(self.model, Edit(Asker("study"), change, WHERE))

    def _sample(self, model: ModelPatcher, prompts: list[str], seeds: list[int]) -> Tensor:
        return sample_latents(model, self.clip, prompts, seeds, SETTINGS)


def _parts(pairs: Pairs) -> list[Pairs]:
    return [
        Pairs(pairs.kind, pairs.sources[at], pairs.targets[at], pairs.seeds[at])
        for at in (slice(n, n + AT_ONCE) for n in range(0, len(pairs.seeds), AT_ONCE))
    ]


def _differing(a: Tensor, b: Tensor) -> float:
    return float((a != b).sum())
