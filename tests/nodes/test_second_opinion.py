"""diffusers' classes with ComfyUI's weights: the same outputs, statistics and edits."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from vdit_attention.tests.nodes.converted import Inputs, Twins, wan_twins
from vdit_attention.tests.nodes.tiny import COLS, FRAMES, LAYERS, ROWS, prompt, sample, tiny_wan
from vdit_attention.vdit_core.attention import MORE_KEPT
from vdit_attention.vdit_core.edits import Change
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.sparsity import Sparsify
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.host.comfy import attach
from vdit_attention.vdit_core.host.diffusers import capture, edit, watching
from vdit_attention.vdit_core.program import Spec
from vdit_attention.vdit_core.record import RecordData

PIXELS = torch.zeros(2, 16, FRAMES, 2 * ROWS, 2 * COLS)  # 3 × 5 × 7 patches, a batch of two
RATES = (0.5, 0.0, 0.75)
EDITS: dict[str, Change] = {
    "sharper": Temperature(0.6),
    "flatter": Temperature(1.7),
    "skip": Skip(),
    "identity": Perturb("identity", 1.0),
    "uniform": Perturb("uniform", 0.4),
    "transfer": PairTransfer(1.0),
    "transfer in part": PairTransfer(0.5),
    "sparse": Sparsify(RATES),
    "sparse, not renormalised": Sparsify(RATES, renormalize=False),
    "sparse, two-run": Sparsify(RATES, "exact two-run"),
    "sparse, blocks": Sparsify(RATES, "block", block_size=16, reuse=2),
}
COUNTS = ("coverage", "keys_for_95", "realised_rate")


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation of ComfyUI's model was given, and what it put out."""

    given: Inputs
    branches: tuple[str, ...]
    sigma: float
    out: Tensor


@pytest.fixture(scope="module")
def twins() -> Twins:
    return wan_twins(tiny_wan(patch_size=[1, 2, 2], cross_attn_norm=True))


def test_both_classes_compute_the_same(twins: Twins) -> None:
    evaluations = sampled(twins.model)
    assert len(evaluations) == 2
    for mine, theirs in zip(evaluations, repeated(twins, evaluations), strict=True):
        assert_close(theirs, mine.out)


def test_both_hosts_measure_the_same(twins: Twins) -> None:
    here, there = (capture(steps="all", more=tuple(MORE_KEPT), tau=0.05) for _ in range(2))
    evaluations = sampled(attach(twins.model, here))
    repeated(twins, evaluations, there)
    assert_same_records(here.record.data, there.record.data)


@pytest.mark.parametrize("name", EDITS)
def test_both_hosts_edit_the_same(twins: Twins, name: str) -> None:
    layers = "all" if name.startswith("sparse") else "0,2"
    change = edit(EDITS[name], layers, heads="0,2-3")
    evaluations = sampled(attach(twins.model, change))
    untouched = repeated(twins, evaluations)
    for mine, theirs, plain in zip(
        evaluations, repeated(twins, evaluations, change), untouched, strict=True
    ):
        # A weight as near to the quantile as float32 can tell may be dropped on one side only.
        assert_close(theirs, mine.out, strays=0.02 if name.startswith("sparse") else 0.0)
        assert (mine.out - plain).abs().max() > 0.01 * plain.abs().max()


def sampled(model: ModelPatcher) -> list[Evaluation]:
    """Sample two videos with guidance in ComfyUI, and note each evaluation of the model."""
    network = model.model.diffusion_model
    evaluations: dict[float, Evaluation] = {}

    def note(_: Any, args: tuple[Any, ...], kwargs: Inputs, out: Tensor) -> None:
        given = signature(type(network).forward).bind(network, *args, **kwargs).arguments
        names = ("cond", "uncond")
        branches = tuple(names[i] for i in given["transformer_options"]["cond_or_uncond"])
        # A two-run edit makes each evaluation twice; the later one counts.
        sigma = float(given["transformer_options"]["sigmas"][0])
        evaluations[sigma] = Evaluation(given, branches, sigma, out.clone())

    handle = network.register_forward_hook(note, with_kwargs=True)
    try:
        latent = {"samples": PIXELS}
        sample(model, positive=prompt(1, batch=2), negative=prompt(2), latent=latent)
    finally:
        handle.remove()
    return list(evaluations.values())


def repeated(twins: Twins, evaluations: list[Evaluation], *program: Spec) -> list[Tensor]:
    """The same evaluations by diffusers' class, watched by our host for it."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[e.sigma for e in evaluations])
    outputs: list[Tensor] = []
    with watching(
        twins.transformer, *program, scheduler=scheduler, branches=evaluations[0].branches
    ):
        for evaluation in evaluations:
            assert evaluation.branches == evaluations[0].branches
            out = twins.transformer(**twins.told(evaluation.given), return_dict=False)[0]
            outputs.append(twins.heard(out))
    return outputs


def assert_close(theirs: Tensor, mine: Tensor, what: str = "out", strays: float = 0.0) -> None:
    """Within float32's reach of each other, measured by the largest value.

    strays: which share may be further off, up to a hundredth.
    """
    assert theirs.shape == mine.shape, what
    error = (theirs - mine).abs().double() / mine.abs().max().clamp(min=1e-9)
    apart = (error > 2e-5).double().mean()
    assert apart <= strays and error.max() < 0.01, f"{what}: {error.max():.1e}, {apart:.1%} apart"


def assert_same_records(here: RecordData, there: RecordData) -> None:
    assert here.header.grid == there.header.grid
    tokens = len(here.header.grid)
    assert (here.header.model, here.header.rate) == (there.header.model, there.header.rate)
    others = {label(m): m.measures for m in there.measurements}
    assert len(others) == len(here.measurements) == LAYERS * 2 * 2 * 2
    for m in here.measurements:
        other = others[label(m)]
        for name, value in vars(m.measures).items():
            if name in COUNTS:  # a weight at the border may be counted on one side only
                assert (getattr(other, name) - value).abs().max() <= 3 / tokens**2, name
            elif value is not None:
                assert_close(getattr(other, name), value, f"{name} of {label(m)}")


def label(m: Any) -> tuple[Any, ...]:
    return m.site, m.layer, m.step, m.evaluation, m.branch, m.item, m.heads
