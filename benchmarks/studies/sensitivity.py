"""Does a short probe find the layers that a full sweep finds, and does its schedule keep its word?

Toy models. The probe is one sampling of a few steps of one prompt; the sweep samples every prompt
once for each layer, with that layer alone sparse, and looks how far the latents end up from the
dense ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...vdit_core.agreement import spearman
from ...vdit_core.attention import Thinning, attend
from ...vdit_core.edits.sparsity import Sparsify
from ...vdit_core.host.comfy import attach, layer_count
from ...vdit_core.host.toy_sampling import SamplerSettings, sample_latents
from ...vdit_core.host.toy_world import load_toy_world
from ...vdit_core.plan import AttentionPlan, Threshold
from ...vdit_core.program import Asker, Capture, Edit
from ...vdit_core.record import Record
from ...vdit_core.selection import parse_selection, parse_where
from ...vdit_core.sensitivity import Sensitivity, sensitivity_of
from ...vdit_core.toy.clips import random_scenes
from ..checks import Check
from ..watch import Heard, listening

RATE = 0.9
TARGETS = {"rate": 0.5, "error": 0.1}  # and the limit of each
PROBE_STEPS, STEPS = 4, 6
AT_MOST = 4  # prompts of the schedules, where every layer is sparse
FIRST_SEED = 4000


@dataclass(frozen=True)
class World:
    """A toy model and the prompts and seeds that everything is sampled with."""

    name: str
    model: ModelPatcher
    clip: object
    prompts: list[str]

    def latents(self, model: ModelPatcher, steps: int = STEPS, count: int | None = None) -> Tensor:
        """[n, 16, 5, 8, 8] of the first `count` prompts, all by default."""
        prompts = self.prompts[:count]
        seeds = [FIRST_SEED + n for n in range(len(prompts))]
        settings = SamplerSettings(steps=steps)
        return sample_latents(model, self.clip, prompts, seeds, settings)  # pyright: ignore

    def sparse(self, rates: Sequence[float], mode: str = "exact") -> ModelPatcher:
        change = Sparsify(tuple(rates), mode, block_size=32)
        return attach(self.model, Edit(Asker("study"), change, parse_where("all", "all")))


@torch.inference_mode()
def run(quick: bool = False) -> list[Check]:
    """Rank correlations on both toy models; on the tiny Wan also what its schedules do."""
    prompts = 2 if quick else 16
    wan = _world("wan", prompts)
    found = _probed(wan)
    dense = wan.latents(wan.model)
    checks = _ranked(wan, found, dense)
    checks += _schedules(replace(wan, prompts=wan.prompts[:AT_MOST]), found, dense[:AT_MOST])
    mochi = _world("mochi", prompts)
    return checks + _ranked(mochi, _probed(mochi), mochi.latents(mochi.model))


def _world(variant: str, count: int) -> World:
    model, clip, _ = load_toy_world(variant=variant)
    scenes = random_scenes(count, torch.Generator().manual_seed(FIRST_SEED))
    return World(variant, model, clip, [scene.prompt for scene in scenes])


def _probed(world: World) -> Sensitivity:
    """The probe: one prompt, a few steps."""
    record, everything = Record(), parse_selection("all", "steps")
    where, more = parse_where("all", "all"), ("sensitivity",)
    asked = Capture(Asker("probe"), where, everything, record, more=more)
    world.latents(attach(world.model, asked), PROBE_STEPS, 1)
    return sensitivity_of(record.data, everything, "both")


def _ranked(world: World, found: Sensitivity, dense: Tensor) -> list[Check]:
    """The probe's ranking of the layers against the sweep's, of all prompts and of each."""
    errors = found.error_at([RATE] * len(found.layers)).tolist()
    changes: list[Tensor] = []
    for layer in found.layers:
        rates = [RATE * (n == layer) for n in range(layer_count(world.model))]
        changes.append(_distances(world.latents(world.sparse(rates)), dense))
    table = torch.stack(changes)  # [layers, prompts]
    each = torch.tensor([spearman(errors, column.tolist()) for column in table.T])
    sweep = table.mean(1).tolist()
    lines = ", ".join(
        f"{layer}: {error:.2f} → {change:.2f}"
        for layer, error, change in zip(found.layers, errors, sweep, strict=True)
    )
    about = f"toy {world.name}, {RATE:.0%} of one layer dropped"
    note = f"{len(dense)} prompts; layer: probe's error → sweep's change of the latent: {lines}"
    spread = f"least {float(each.min()):.2f}, largest {float(each.max()):.2f}"
    return [
        Check(f"{about}: rank correlation of probe and sweep", spearman(errors, sweep), note=note),
        Check(f"{about}: the same, prompt by prompt", float(each.mean()), note=f"mean; {spread}"),
    ]


def _schedules(world: World, found: Sensitivity, dense: Tensor) -> list[Check]:
    checks: list[Check] = []
    for target, limit in TARGETS.items():
        rates = found.rates(target, RATE, limit, 0.0)
        mean = sum(rates) / len(rates)
        title = f"schedule by {target} ({mean:.0%} dropped on average)"
        sparse = world.sparse(rates)
        checks += [*_kept(world, found, rates, title)]
        for name, model in (
            ("the schedule", sparse),
            ("the same share everywhere", world.sparse([mean] * len(rates))),
            ("the schedule in blocks of 32", world.sparse(rates, "block")),
        ):
            change = _distances(world.latents(model), dense)
            note = (
                f"of the final latent; {len(dense)} prompts, standard deviation {change.std():.3f}"
            )
            checks.append(Check(f"{title}: change by {name}", float(change.mean()), note=note))
    return checks


def _kept(world: World, found: Sensitivity, rates: Sequence[float], title: str) -> Iterator[Check]:
    """Asked against realised rates, predicted against measured errors, layer by layer."""
    realised, errors = defaultdict[int, list[float]](list), defaultdict[int, list[float]](list)

    def hear(call: Heard) -> None:
        if rate := rates[call.layer]:
            dropped, error = _measured(call, rate)
            realised[call.layer].append(dropped)
            errors[call.layer].append(error)

    with listening(hear):
        world.latents(world.sparse(rates), count=4)
    sparse = [layer for layer in found.layers if rates[layer]]
    asked = [abs(_mean(realised[layer]) - rates[layer]) for layer in sparse]
    predicted: list[float] = found.error_at(rates).tolist()
    measured = [_mean(errors[layer]) for layer in sparse]
    pairs = [(predicted[layer], one) for layer, one in zip(sparse, measured, strict=True)]
    lines = ", ".join(
        f"{layer}: {a:.3f} → {b:.3f}" for layer, (a, b) in zip(sparse, pairs, strict=True)
    )
    yield Check(f"{title}: realised rate beside the asked one", max(asked), "largest difference")
    ratio = max(b / a for a, b in pairs)
    note = f"layer: predicted → measured: {lines}"
    yield Check(f"{title}: measured over predicted error, the worst layer", ratio, "×", note=note)
    mean = _mean(measured) / _mean([a for a, _ in pairs])
    yield Check(f"{title}: measured over predicted error, mean of the layers", mean, "×")


def _measured(call: Heard, rate: float) -> tuple[float, float]:
    """Share of the weights that this call drops at the rate, and the change of its output."""
    shape, reports = call.q.shape[:2], list[Thinning]()
    plan = AttentionPlan(threshold=Threshold(torch.full(shape, rate, dtype=torch.float64)))
    attend(call.q, call.k, call.v, plan, report=reports.append)
    maps = (call.q @ call.k.mT * call.q.shape[-1] ** -0.5).softmax(-1)
    dense = maps @ call.v
    apart = (call.out - dense).flatten(1).norm(dim=-1) / dense.flatten(1).norm(dim=-1)
    return float(reports[0].realised_rate.mean()), float(apart.mean())


def _distances(latents: Tensor, dense: Tensor) -> Tensor:
    """How far each video's latent is from the dense one, as a share of its size. [n]"""
    return (latents - dense).flatten(1).norm(dim=-1) / dense.flatten(1).norm(dim=-1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
