"""Bad input: an error in exact, useful words before the model has run once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from vdit_attention.tests.nodes import tiny
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.models import find_layout
from vdit_attention.vdit_core.pairs import pair_latent, pair_prompts
from vdit_attention.vdit_core.program import Window

HELP = "write all, none, mid, or numbers and ranges such as 0,3,19-21 or -4--1, with ! to exclude"


@pytest.fixture
def model() -> ModelPatcher:
    return tiny.tiny_wan()


@pytest.fixture
def calls(model: ModelPatcher) -> Iterator[list[object]]:
    """One entry for each time the network runs."""
    ran: list[object] = []
    handle = model.model.diffusion_model.register_forward_pre_hook(lambda *_: ran.append(1))
    yield ran
    handle.remove()


def transferred(model: ModelPatcher, **how: Any) -> None:
    tiny.sample(tiny.edited(model, PairTransfer(1.0)), **how)


def sampled_with_steps(model: ModelPatcher, steps: str) -> None:
    tiny.sample(tiny.watched(model, steps=steps)[0], steps=4)


def sampled_in_window(model: ModelPatcher, start: float, end: float) -> None:
    tiny.sample(tiny.edited(model, Temperature(0.5), window=Window(start, end)), steps=4)


CASES: dict[str, tuple[Callable[[ModelPatcher], object], str]] = {
    "a layer that does not exist": (
        lambda m: tiny.edited(m, Temperature(0.5), layers="3"),
        "layers: '3' names layer 3, but this model has layers 0 to 2 (or -3 to -1, counted from "
        "the end)",
    ),
    "a layer to watch that does not exist": (
        lambda m: tiny.watched(m, layers="-4"),
        "layers: '-4' names layer -4, but this model has layers 0 to 2 (or -3 to -1, counted from "
        "the end)",
    ),
    "a head that does not exist": (
        lambda m: tiny.edited(m, Temperature(0.5), heads="4"),
        "heads: '4' names head 4, but layer 0 has heads 0 to 3 (or -4 to -1, counted from the end)",
    ),
    "an empty layer text": (
        lambda m: tiny.edited(m, Temperature(0.5), layers=" "),
        f"layers: the text is empty; {HELP}",
    ),
    "a malformed layer text": (
        lambda m: tiny.edited(m, Temperature(0.5), layers="1;2"),
        f"layers: cannot read '1;2' in '1;2'; {HELP}",
    ),
    "a step that does not exist": (
        lambda m: sampled_with_steps(m, "4"),
        "steps: '4' names step 4, but this sampler has steps 0 to 3 (or -4 to -1, counted from the "
        "end)",
    ),
    "a region that only joint attention has": (
        lambda m: tiny.sample(tiny.edited(m, Temperature(0.5, "video→video"))),
        "Edit: region video→video needs a model in which video and text attend together, but "
        "the self-attention of Wan holds video only; choose region all",
    ),
    "a start after the end": (
        lambda m: sampled_in_window(m, 0.6, 0.5),
        "start_percent 0.6 and end_percent 0.5: they must lie in 0 to 1, and the start must not "
        "come after the end",
    ),
    "a window outside the schedule": (
        lambda m: sampled_in_window(m, -0.1, 0.5),
        "start_percent -0.1 and end_percent 0.5: they must lie in 0 to 1, and the start must not "
        "come after the end",
    ),
    "a window between two steps": (
        lambda m: sampled_in_window(m, 0.3, 0.4),
        "Edit: none of the 4 steps falls between start_percent 0.3 and end_percent 0.4; widen the "
        "window",
    ),
    "an empty window": (
        lambda m: sampled_in_window(m, 1.0, 1.0),
        "Edit: none of the 4 steps falls between start_percent 1.0 and end_percent 1.0; widen the "
        "window",
    ),
    "a branch nobody knows": (
        lambda m: tiny.edited(m, Temperature(0.5), branch="positive"),
        "branch: got 'positive', allowed are both, cond, uncond",
    ),
    "a temperature of 0": (
        lambda m: Temperature(0.0),
        "temperature: got 0.0, but it must be above 0; 1 is neutral",
    ),
    "a temperature that is no number": (
        lambda m: Temperature(float("nan")),
        "temperature: got nan, but it must be above 0; 1 is neutral",
    ),
    "a map nobody knows": (
        lambda m: Perturb("diagonal", 1.0),
        "map: got 'diagonal', allowed are identity and uniform",
    ),
    "a strength above 1": (
        lambda m: Perturb("uniform", 1.5),
        "strength: got 1.5, allowed is 0 to 1",
    ),
    "a transfer strength below 0": (
        lambda m: PairTransfer(-0.1),
        "strength: got -0.1, allowed is 0 to 1",
    ),
    "a transfer without a batch of pairs": (
        lambda m: transferred(m, positive=tiny.prompt(1, batch=2)),
        "Edit: it needs a batch of pairs (source, target), but this latent has a batch of 1; put "
        "VDiT Pair Latent before the sampler and VDiT Pair Prompts on its positive input",
    ),
    "a transfer with one prompt": (
        lambda m: transferred(m, latent=pair_latent(tiny.empty_latent())),
        "Edit: the positive conditioning holds one prompt, a pair needs two; connect VDiT Pair "
        "Prompts (source, target) to the sampler's positive",
    ),
    "pair prompts of different width": (
        lambda m: pair_prompts([[torch.zeros(1, 3, 8), {}]], [[torch.zeros(1, 4, 16), {}]]),
        "pair prompts: the source is 1 × 3 tokens of width 8 and the target 1 × 4 tokens of width "
        "16, but both must be one prompt of the same width; encode both with the same CLIP",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_named_before_the_first_step(
    name: str, model: ModelPatcher, calls: list[object]
) -> None:
    work, message = CASES[name]
    with pytest.raises(ValueError) as error:
        work(model)
    assert str(error.value) == message
    assert calls == []


def test_the_counter_of_calls_counts(model: ModelPatcher, calls: list[object]) -> None:
    tiny.sample(model)
    assert len(calls) == 2


def test_an_unknown_family_is_named_with_those_we_know() -> None:
    with pytest.raises(ValueError) as error:
        find_layout(torch.nn.Linear(1, 1))
    assert str(error.value) == (
        "model: Linear is of no family this pack knows (Wan, Mochi, HunyuanVideo, CogVideoX, "
        "LTX-Video); load one of those, or open an issue with the model's name"
    )


@pytest.mark.parametrize(("weight", "letter"), [("q", "Q"), ("k", "K")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_q_or_k_names_the_layer(
    weight: str, letter: str, value: float, model: ModelPatcher
) -> None:
    getattr(model.model.diffusion_model.blocks[1].self_attn, weight).bias.data[3] = value
    for changed in (tiny.edited(model, Temperature(0.5)), tiny.watched(model)[0]):
        with pytest.raises(ValueError) as error:
            tiny.sample(changed)
        assert str(error.value).startswith(
            f"{letter} of blocks.1.self_attn at step 0 holds NaN or infinity; the model broke "
        )


def test_an_edit_of_uncond_with_cfg_1_is_an_error_on_the_node(model: ModelPatcher) -> None:
    changed = tiny.edited(model, Temperature(0.5), layers="1", branch="uncond")
    with pytest.raises(RuntimeError) as error:
        tiny.sample(changed, cfg=1.0)
    assert str(error.value).startswith(
        "Edit: nothing happened at blocks.1.self_attn. The sampler made cond calls, this node "
        "wants branch 'uncond' (with cfg 1 there is no uncond call)."
    )


def test_a_map_of_a_layer_that_was_not_captured_says_which_were(model: ModelPatcher) -> None:
    watched, record = tiny.watched(model, layers="0,2", steps="1", branch="cond")
    tiny.sample(watched)
    with pytest.raises(ValueError) as error:
        record.data.find(layer=1, step=1, branch="cond")
    assert str(error.value) == (
        "record: no map of layer 1, step 1, branch cond, video 0; captured were layers 0, 2, steps "
        "1, branches cond, videos 0; choose one of these, or widen the choice on VDiT Capture and "
        "sample again"
    )
