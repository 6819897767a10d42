"""Wan 2.2: two models and two samplers share one schedule, and one record holds both.

The truth is one sampler that does all steps, and each model's own record.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from vdit_attention.benchmarks.server import ComfyServer
from vdit_attention.tests.nodes import tiny
from vdit_attention.vdit_core.record import Record, RecordData, load_record

import nodes

STEPS, SWITCH = 5, 2
Latent = dict[str, Any]


def advanced(
    model: ModelPatcher, latent: Latent, first: int, last: int, leftover: bool = True
) -> Latent:
    """Core's KSampler (Advanced) for a part of the schedule."""
    (out,) = nodes.KSamplerAdvanced().sample(
        model,
        "enable" if first == 0 else "disable",
        1,
        STEPS,
        3.0,
        "euler",
        "simple",
        tiny.prompt(1),
        tiny.prompt(2),
        latent,
        first,
        last,
        "enable" if leftover else "disable",
    )
    return out


def sample_both(
    high: ModelPatcher, low: ModelPatcher, switch: int = SWITCH, leftover: bool = True
) -> Latent:
    noisy = advanced(high, tiny.empty_latent(), 0, switch, leftover)
    return advanced(low, noisy, switch, 10000, leftover=False)


def labels(data: RecordData) -> list[tuple[Any, ...]]:
    return [(m.site, m.step, m.evaluation, m.branch, m.item) for m in data.measurements]


def assert_alike(found: RecordData, wanted: RecordData) -> None:
    assert found.header == wanted.header
    assert labels(found) == labels(wanted)
    for a, b in zip(found.measurements, wanted.measurements, strict=True):
        assert a.sigma == pytest.approx(b.sigma)
        torch.testing.assert_close(a.measures.pooled_map, b.measures.pooled_map)
        torch.testing.assert_close(a.measures.entropy, b.measures.entropy)


@pytest.fixture(scope="module")
def high() -> ModelPatcher:
    return tiny.tiny_wan(seed=0)


@pytest.fixture(scope="module")
def low() -> ModelPatcher:
    return tiny.tiny_wan(seed=1)


@pytest.mark.parametrize("switch", [1, 2, 4])
def test_of_one_model_it_is_the_record_of_one_sampler(switch: int, high: ModelPatcher) -> None:
    whole, wanted = tiny.watched(high)
    latent = advanced(whole, tiny.empty_latent(), 0, 10000, leftover=False)
    first, early = tiny.watched(high)
    second, both = tiny.watched(high, earlier=early)
    again = sample_both(first, second, switch)
    torch.testing.assert_close(again["samples"], latent["samples"])
    assert_alike(both.data, wanted.data)


def test_of_two_models_each_step_is_that_of_its_model(
    high: ModelPatcher, low: ModelPatcher
) -> None:
    first, early = tiny.watched(high)
    second, both = tiny.watched(low, earlier=early)
    plain, alone = tiny.watched(low)
    latent = sample_both(first, second)["samples"]
    assert torch.equal(latent, sample_both(high, plain)["samples"])
    data, of_high, of_low = both.data, early.data, alone.data
    assert data.header.steps == STEPS
    assert data.header.sigmas[:SWITCH] == of_high.header.sigmas[:-1]
    assert data.header.sigmas[SWITCH:] == of_low.header.sigmas
    count = len(of_high.measurements)
    assert data.measurements[:count] == of_high.measurements
    for a, b in zip(data.measurements[count:], of_low.measurements, strict=True):
        assert (a.layer, a.step, a.sigma) == (b.layer, b.step + SWITCH, b.sigma)
        assert torch.equal(a.measures.pooled_map, b.measures.pooled_map)
    for m in data.measurements:
        assert m.sigma == pytest.approx(data.header.sigmas[m.step], rel=1e-3)


def test_steps_chosen_on_the_second_node_are_its_own_samplers(
    high: ModelPatcher, low: ModelPatcher
) -> None:
    first, early = tiny.watched(high, steps="-1")
    second, both = tiny.watched(low, steps="0,-1", earlier=early)
    sample_both(first, second)
    assert sorted({m.step for m in both.data.measurements}) == [1, 2, 4]


def test_a_second_queue_equals_the_first(high: ModelPatcher, low: ModelPatcher) -> None:
    first, early = tiny.watched(high)
    second, both = tiny.watched(low, earlier=early)
    noisy = advanced(first, tiny.empty_latent(), 0, SWITCH)
    advanced(second, noisy, SWITCH, 10000, leftover=False)
    once = both.data
    advanced(second, noisy, SWITCH, 10000, leftover=False)  # the first sampler's result was cached
    assert_alike(both.data, once)
    sample_both(first, second)
    assert_alike(both.data, once)


def refused(high: ModelPatcher, low: ModelPatcher, message: str, **how: Any) -> None:
    evaluations: list[int] = []
    handle = low.model.diffusion_model.register_forward_pre_hook(lambda *_: evaluations.append(1))
    with pytest.raises(ValueError, match=message):
        sample_both(high, low, **how)
    handle.remove()
    assert not evaluations


def test_another_model_is_refused_before_sampling(high: ModelPatcher) -> None:
    first, early = tiny.watched(high)
    other, _ = tiny.watched(tiny.tiny_wan(num_layers=2), earlier=early)
    refused(first, other, "the model is Wan with 2 layers of 4 heads, but Wan with 3 layers of 4")


def test_no_leftover_noise_is_refused_before_sampling(
    high: ModelPatcher, low: ModelPatcher
) -> None:
    first, early = tiny.watched(high)
    second, _ = tiny.watched(low, earlier=early)
    refused(first, second, "ends at noise level 0, .* turn on return_with_", leftover=False)


def test_another_size_is_refused_before_the_model_computes(
    high: ModelPatcher, low: ModelPatcher
) -> None:
    first, early = tiny.watched(high)
    advanced(first, tiny.empty_latent(frames=2), 0, SWITCH)
    second, _ = tiny.watched(low, earlier=Record(early.data))
    refused(high, second, "the video is 3 frames of 5 × 7 tokens, but 2 frames of 5 × 7 tokens in")


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


def prompt_of_two(cfg: float) -> dict[str, Any]:
    """A graph in API format: the toy model in both places, and the record saved."""
    prompt: dict[str, Any] = {
        "toy": ("VDiTToyWorld", {"variant": "wan"}),
        "text": ("CLIPTextEncode", {"clip": ["toy", 1], "text": "a red circle falling"}),
        "none": ("CLIPTextEncode", {"clip": ["toy", 1], "text": ""}),
        "empty": (
            "EmptyHunyuanLatentVideo",
            {"width": 64, "height": 64, "length": 17, "batch_size": 1},
        ),
        "watch": ("VDiTCapture", watching()),
        "watch on": ("VDiTCapture", watching() | {"record": ["watch", 1]}),
        "high": ("KSamplerAdvanced", sampling("watch", "empty", 0, 2, 2.0)),
        "low": ("KSamplerAdvanced", sampling("watch on", "high", 2, 10000, cfg)),
        "save": (
            "VDiTSaveRecord",
            {"record": ["watch on", 1], "latent": ["low", 0], "filename_prefix": "both"},
        ),
    }
    return {name: {"class_type": kind, "inputs": i} for name, (kind, i) in prompt.items()}


def watching() -> dict[str, Any]:
    chosen = {"layers": "all", "heads": "all", "steps": "all", "branch": "both"}
    return chosen | {"model": ["toy", 0], "map_size": 20}


def sampling(model: str, latent: str, first: int, last: int, cfg: float) -> dict[str, Any]:
    return {
        "model": [model, 0],
        "latent_image": [latent, 0],
        "positive": ["text", 0],
        "negative": ["none", 0],
        "add_noise": "enable" if first == 0 else "disable",
        "return_with_leftover_noise": "enable" if first == 0 else "disable",
        "start_at_step": first,
        "end_at_step": last,
        "noise_seed": 3,
        "steps": 4,
        "cfg": cfg,
        "sampler_name": "euler",
        "scheduler": "simple",
    }


def test_it_holds_when_the_server_runs_only_the_second_sampler_again(server: ComfyServer) -> None:
    for cfg in (2.0, 1.5):  # the second time "watch", "watch on" and "high" are cached
        server.run(prompt_of_two(cfg))
    folder = server.base / "output"
    once, again = (load_record(folder / f"both_{n:05}_.safetensors") for n in (1, 2))
    assert labels(once) == labels(again)
    assert sorted({m.step for m in once.measurements}) == [0, 1, 2, 3]
    assert len(labels(once)) == len(set(labels(once))) == 4 * 6 * 2
    same = [
        torch.equal(a.measures.pooled_map, b.measures.pooled_map)
        for a, b in zip(once.measurements, again.measurements, strict=True)
        if a.layer == 5 and a.branch == "cond"
    ]
    assert same[:2] == [True, True] and not same[3]
