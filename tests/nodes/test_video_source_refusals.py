"""What VDiT Video Source refuses, and what a sampling with it refuses before its first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.footage import BOTH, mask, node, video
from vdit_attention.vdit_core.edits.freeze import Freeze
from vdit_attention.vdit_core.pairs import pair_latent
from vdit_attention.vdit_core.program import Window


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.tiny_wan()


@pytest.mark.parametrize(
    ("latent", "settings", "words"),
    [
        (torch.rand(1, 4, 3, 5, 7), {}, r"shape \(1, 4, 3, 5, 7\), but .* \[batch, 16, frames"),
        (torch.rand(1, 16, 5, 7), {}, "encode the frames with the model's VAE"),
        (torch.zeros(1, 16, 3, 5, 7), {}, "the latent is empty .* connect VAE Encode"),
        (None, {"mask": torch.ones(8, 10, 14)}, "it has 8 frames, but the video has 9"),
        (None, {"mask": torch.zeros(1, 10, 14)}, "nothing is drawn"),
        (None, {"strength": 1.5}, "strength: got 1.5"),
        (None, {"schedule": "0=2"}, "strength: got 2.0"),
        (None, {"schedule": "9=1"}, "names layer 9, but this model has layers 0 to 2"),
    ],
)
def test_bad_input_is_refused_by_the_node(
    model: ModelPatcher, latent: Tensor | None, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        node(model, latent, **settings)


def refused(patched: ModelPatcher, latent: Any, words: str, **how: Any) -> None:
    steps: list[int] = []
    with pytest.raises(ValueError, match=words):
        tiny.sample(
            patched,
            **({"positive": BOTH, "latent": latent} | how),
            callback=lambda step, *_: steps.append(step),
        )
    assert not steps


def test_bad_samplings_are_refused_before_they_begin(model: ModelPatcher) -> None:
    patched, pair = node(model)
    other = pair_latent({"samples": torch.zeros(1, 16, 2, 5, 7)})
    refused(patched, other, "latent is 2 × 5 × 7 .* but the video is 3 × 5 × 7 .* latent output")
    several, _ = node(model, video(3))
    refused(several, pair_latent({"samples": video(2)}), "batch of 4, but the video .* batch of 3")
    refused(patched, {"samples": video()}, "needs a batch of pairs")
    refused(patched, pair, "holds one prompt, a pair needs two", positive=tiny.prompt(5))
    silent = torch.zeros_like(pair["samples"])
    refused(patched, pair, "the sampler adds no noise, but the video must get", noise=silent)
    twice, _ = node(patched, video(seed=5), layers="2")
    refused(twice, pair, "already follows another video, or has another mask")
    frozen = tiny.edited(patched, Freeze(0), layers="1", window=Window(0.0, 1.0))
    refused(frozen, pair, "layers 1 already take their maps from elsewhere")


def test_an_area_and_a_mask_are_refused(model: ModelPatcher) -> None:
    patched, pair = node(model, mask=mask())
    area = [[BOTH[0][0], BOTH[0][1] | {"area": (3, 4, 7, 0, 1, 0), "strength": 1.0}]]
    with pytest.raises(ValueError, match="cannot be combined with prompts that have an area"):
        tiny.sample(patched, positive=area, latent=pair)
