"""diffusers' classes with ComfyUI's weights: the same outputs, statistics and edits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn.functional import pad
from vdit_attention.tests.nodes import converted, tiny
from vdit_attention.tests.nodes.converted import Inputs, Twins
from vdit_attention.tests.nodes.families import COGVIDEOX, HUNYUAN_VIDEO, MOCHI, WAN, Family
from vdit_attention.tests.nodes.tiny import Conditioning
from vdit_attention.vdit_core.attention import MORE_KEPT
from vdit_attention.vdit_core.edits import Change
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.sparsity import Sparsify
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.text import HideText
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.host.comfy import attach
from vdit_attention.vdit_core.host.diffusers import capture, edit, watching
from vdit_attention.vdit_core.program import Spec
from vdit_attention.vdit_core.record import RecordData

pytestmark = pytest.mark.column("agrees with diffusers")
RATES = (0.5, 0.0, 0.75)
EDITS: dict[str, Change] = {
    "sharper": Temperature(0.6),
    "flatter": Temperature(1.7),
    "skip": Skip(),
    "identity": Perturb("identity", 1.0),
    "uniform": Perturb("uniform", 0.4),
    "transfer": PairTransfer(1.0),
    "transfer in part": PairTransfer(0.5),
    "hide text": HideText(3),
    "sparse": Sparsify(RATES),
    "sparse, not renormalised": Sparsify(RATES, renormalize=False),
    "sparse, two-run": Sparsify(RATES, "exact two-run"),
    "sparse, blocks": Sparsify(RATES, "block", block_size=5, reuse=2),
}
COUNTS = ("coverage", "keys_for_95", "mass_curve", "realised_rate")


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation of ComfyUI's model was given, told as to diffusers, and its output."""

    told: Inputs
    branches: tuple[str, ...]
    sigma: float
    out: Tensor


@dataclass(frozen=True)
class Case:
    """A family, its two classes, and how it is sampled: two videos of two prompts."""

    family: Family
    twins: Twins
    how: dict[str, Any]


def wan() -> Case:
    family = replace(WAN, patch=(1, 2, 2))
    model = tiny.tiny_wan(patch_size=[1, 2, 2], cross_attn_norm=True)
    how = {"positive": tiny.prompt(1, batch=2), "negative": tiny.prompt(2)}
    return Case(family, converted.wan(model), how)


def mochi() -> Case:
    """Both prompts of a batch are as long: core crops them to the sum of their lengths."""
    how = {"positive": two_prompts(MOCHI, 6), "negative": MOCHI.prompt(2, 4)}
    return Case(MOCHI, converted.mochi(MOCHI.make()), how)


def hunyuan_video() -> Case:
    """Text and video are whole blocks of 5 tokens, as diffusers has them the other way round."""
    how = {"positive": two_prompts(HUNYUAN_VIDEO, 5), "negative": HUNYUAN_VIDEO.prompt(2, 10)}
    return Case(HUNYUAN_VIDEO, converted.hunyuan_video(loud(HUNYUAN_VIDEO)), how)


def cogvideox() -> Case:
    how = {"positive": two_prompts(COGVIDEOX, 6), "negative": COGVIDEOX.prompt(2, 6)}
    return Case(COGVIDEOX, converted.cogvideox(loud(COGVIDEOX)), how)


def loud(family: Family) -> ModelPatcher:
    """A model in which what attention gives is not gated away."""
    model = family.make()
    for name, weight in model.model.diffusion_model.named_parameters():
        if name.endswith((".norm1.linear.bias", ".lin.bias")):
            weight.data.normal_()
    return model


def two_prompts(family: Family, tokens: int) -> Conditioning:
    prompts = [family.prompt(seed, tokens)[0] for seed in (1, 3)]
    return [[torch.cat([text for text, _ in prompts]), prompts[0][1]]]


@pytest.fixture(
    scope="module", params=[wan, mochi, hunyuan_video, cogvideox], ids=lambda make: make.__name__
)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param()


def test_both_classes_compute_the_same(case: Case) -> None:
    evaluations = sampled(case)
    assert {name for e in evaluations for name in e.branches} == {"cond", "uncond"}
    for mine, theirs in zip(evaluations, repeated(case, evaluations), strict=True):
        assert_close(theirs, mine.out)


@pytest.mark.parametrize("name", [None, "transfer"])
def test_both_hosts_measure_the_same(case: Case, name: str | None) -> None:
    here, there = (capture(steps="all", more=(*MORE_KEPT, "words"), tau=0.05) for _ in range(2))
    changes = [] if name is None else [edit(EDITS[name], "0,2", "0,2-3")]
    evaluations = sampled(case, here, *changes)
    repeated(case, evaluations, there, *changes)
    assert_same_records(here.record.data, there.record.data)


@pytest.mark.parametrize("name", EDITS)
def test_both_hosts_edit_the_same(case: Case, name: str) -> None:
    layers = "all" if name.startswith("sparse") else "0,2"
    change = edit(EDITS[name], layers, heads="0,2-3")
    if name == "hide text" and case.family.name == "Wan":
        with pytest.raises(ValueError, match="video and text attend together"):
            repeated(case, sampled(case), change)
        return
    evaluations = sampled(case, change)
    changed = 0.0
    for mine, theirs, plain in zip(
        evaluations,
        repeated(case, evaluations, change),
        repeated(case, evaluations),
        strict=True,
    ):
        # A weight as near to the quantile as float32 can tell may be dropped on one side only.
        assert_close(theirs, mine.out, strays=0.02 if name.startswith("sparse") else 0.0)
        changed = max(changed, float((mine.out - plain).abs().max() / plain.abs().max()))
    assert (
        changed > 0.01
    )  # core gives CogVideoX its first noise so loud that nothing matters beside


@pytest.mark.parametrize("name", [None, "sharper", "uniform"])
@pytest.mark.parametrize("make", [mochi, hunyuan_video], ids=lambda make: make.__name__)
def test_padded_prompts_of_a_batch_are_as_if_alone(
    make: Callable[[], Case], name: str | None
) -> None:
    """diffusers drops or masks the padding, row by row; core samples each prompt by itself."""
    case = make()
    *looks, together = (capture(steps="all") for _ in range(3))
    changes = [] if name is None else [edit(EDITS[name], heads="0,2-3")]
    alone: list[list[Evaluation]] = []
    for look, tokens in zip(looks, (4, 7), strict=True):
        how = {"positive": case.family.prompt(tokens, tokens), "cfg": 1.0}
        one = replace(case, how=how | {"latent": case.family.latent()})
        alone.append(sampled(one, look, *changes))
    pairs = list(zip(*alone, strict=True))
    outs = repeated(case, [joined(pair) for pair in pairs], together, *changes)
    for pair, out in zip(pairs, outs, strict=True):
        assert_close(out, torch.cat([evaluation.out for evaluation in pair]))
    theirs = together.record.data.measurements
    for item, look in enumerate(looks):
        mine = look.record.data.measurements
        for a, b in zip(mine, (m for m in theirs if m.item == item), strict=True):
            assert (a.site, a.step) == (b.site, b.step)
            assert_close(b.measures.pooled_map, a.measures.pooled_map, "pooled_map")
            assert_close(b.measures.other_mass, a.measures.other_mass, "other_mass")


def joined(pair: tuple[Evaluation, ...]) -> Evaluation:
    """Two evaluations as one of two rows, whose shorter prompt is padded with anything."""
    told = [evaluation.told for evaluation in pair]
    length = max(row["encoder_hidden_states"].shape[1] for row in told)
    given: Inputs = {}
    for name in told[0]:
        rows = [row[name] for row in told]
        if name.startswith("encoder"):
            missing = [length - x.shape[1] for x in rows]
            padding = 3.0 if name == "encoder_hidden_states" else 0.0
            rows = [
                pad(x, (0, n) if x.ndim == 2 else (0, 0, 0, n), value=padding)
                for x, n in zip(rows, missing, strict=True)
            ]
        given[name] = torch.cat(rows)
    return replace(pair[0], told=given)


def sampled(case: Case, *program: Spec) -> list[Evaluation]:
    """Sample in ComfyUI, and note each evaluation of the model."""
    model = case.twins.model
    for spec in program:
        model = attach(model, spec)
    network = model.model.diffusion_model
    evaluations: dict[tuple[Any, ...], Evaluation] = {}

    def note(_: Any, args: tuple[Any, ...], kwargs: Inputs, out: Tensor) -> None:
        given = signature(type(network).forward).bind(network, *args, **kwargs).arguments
        options = given["transformer_options"]
        branches = tuple(("cond", "uncond")[i] for i in options["cond_or_uncond"])
        sigma = float(options["sigmas"][0])
        # A two-run edit makes each evaluation twice; the later one counts.
        evaluations[sigma, branches] = Evaluation(
            case.twins.told(given), branches, sigma, out.clone()
        )

    handle = network.register_forward_hook(note, with_kwargs=True)
    try:
        case.family.sample(model, **({"latent": case.family.latent(2)} | case.how))
    finally:
        handle.remove()
    return list(evaluations.values())


def repeated(case: Case, evaluations: list[Evaluation], *program: Spec) -> list[Tensor]:
    """The same evaluations by diffusers' class, watched by our host for it."""
    transformer = case.twins.transformer
    scheduler = case.twins.scheduler([*dict.fromkeys(e.sigma for e in evaluations)])
    together = evaluations[0].branches if len(evaluations[0].branches) > 1 else None
    outputs: list[Tensor] = []
    with watching(transformer, *program, scheduler=scheduler, branches=together):
        for evaluation in evaluations:
            names = sorted(evaluation.branches)
            with transformer.cache_context("_".join(names)):  # as pipelines name their calls
                out = transformer(**evaluation.told, return_dict=False)[0]
            outputs.append(case.twins.heard(out))
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
    assert (here.header.model, here.header.rate) == (there.header.model, there.header.rate)
    others = {label(m): m for m in there.measurements}
    assert len(others) == len(here.measurements) == tiny.LAYERS * 2 * 2 * 2
    for m in here.measurements:
        theirs = others[label(m)]
        grid, other_grid = here.header_of(m).grid, there.header_of(theirs).grid
        tokens, other = len(grid), theirs.measures
        assert video(grid) == video(other_grid)
        shift = other_grid.prefix - grid.prefix  # diffusers' HunyuanVideo has its text last
        for name, value in vars(m.measures).items():
            if name in ("column_sums", "entropy_rows"):
                value = value.roll(shift, -1)
            elif name == "coverage_key":
                value = (value + shift) % tokens
            if name in COUNTS:  # a weight at the border may be counted on one side only
                assert (getattr(other, name) - value).abs().max() <= 3 / tokens**2, name
            elif value is not None:
                assert_same(name, getattr(other, name), value, label(m))
    assert len(here.cross) == len(there.cross)
    outside = {label(m): m for m in there.cross}
    for m in here.cross:
        assert m.tokens == outside[label(m)].tokens
        for name, value in vars(m.measures).items():
            assert_same(name, getattr(outside[label(m)].measures, name), value, label(m))


def assert_same(name: str, theirs: Tensor, mine: Tensor, whose: tuple[Any, ...]) -> None:
    if mine.dtype == torch.bfloat16:  # kept in half precision: one may be rounded up, one down
        torch.testing.assert_close(theirs, mine, rtol=2**-7, atol=1e-6)
    else:
        assert_close(theirs, mine, f"{name} of {whose}")


def video(grid: TokenGrid) -> tuple[int, ...]:
    """Its size, and the numbers of the tokens beside it and of those of the prompt."""
    start, stop = grid.text or (0, 0)
    return grid.frames, grid.rows, grid.cols, grid.prefix + grid.suffix, stop - start


def label(m: Any) -> tuple[Any, ...]:
    return m.site, m.layer, m.step, m.evaluation, m.branch, m.item, m.heads
