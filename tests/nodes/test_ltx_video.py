"""LTX-Video's guide frames, appended by core's own node: after the video, or refused in words."""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.supported_models
import pytest
import torch
from comfy_extras.nodes_lt import LTXVAddGuide, get_noise_mask
from vdit_attention.tests.nodes import families, tiny
from vdit_attention.tests.nodes.families import LTX_VIDEO, TEXT_WIDTH
from vdit_attention.tests.nodes.tiny import COLS, FRAMES, ROWS
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.figures.origin import check_origin
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.host.comfy import layout_of

GUIDES = 2


def guided(strength: float = 1.0, mask: bool = False) -> dict[str, Any]:
    """What LTXVAddGuide makes of both conditionings and the latent, past its VAE."""
    latent = LTX_VIDEO.latent()
    guide = torch.randn(1, 16, GUIDES, ROWS, COLS, generator=torch.Generator().manual_seed(0))
    positive, negative, samples, noise_mask = LTXVAddGuide.append_keyframe(
        LTX_VIDEO.prompt(1),
        LTX_VIDEO.prompt(2, 4),
        8,
        latent["samples"],
        get_noise_mask(latent),
        guide,
        strength,
        (8, 32, 32),
        in_channels=16,
    )
    entry: dict[str, Any] = {"pre_filter_count": GUIDES * ROWS * COLS, "strength": strength}
    entry["latent_shape"] = [GUIDES, ROWS, COLS]
    entry["pixel_mask"] = torch.rand(1, 1, 9, 32, 32) if mask else None
    for [(_, extras)] in (positive, negative):
        extras["guide_attention_entries"] = [entry]
    latent = {"samples": samples, "noise_mask": noise_mask}
    return {"positive": positive, "negative": negative, "latent": latent}


@pytest.mark.parametrize("place", [(0, 0, 0), (2, 1, 4)], ids=str)
def test_guides_are_the_tokens_after_the_video(
    place: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LTX_VIDEO.make()
    how: dict[str, Any] = guided() | {"steps": 1}
    before = LTX_VIDEO.spied(model, monkeypatch, **how)[0]
    noise: Any = comfy.sample.prepare_noise(how["latent"]["samples"], 1)
    frame, row, col = place
    noise[:, :, frame, row, col] = 9
    monkeypatch.setattr(comfy.sample, "prepare_noise", lambda *_: noise)
    after = LTX_VIDEO.spied(model, monkeypatch, **how)[0]
    moved = (before.v != after.v).any(-1).any(1)[0].nonzero()[:, 0]
    watched, record = tiny.watched(model)
    latent = LTX_VIDEO.sample(watched, **how)
    grid = record.data.header.grid
    assert grid == TokenGrid(FRAMES, ROWS, COLS, suffix=GUIDES * ROWS * COLS)
    assert moved.tolist() == [int(grid.ravel(*map(torch.tensor, place)))]
    check_origin(record.data, latent)
    check_origin(record.data, latent[:, :, :FRAMES])  # as LTXVCropGuides leaves it
    with pytest.raises(ValueError, match="a record from another model or size"):
        check_origin(record.data, latent[:, :, :-1])


@pytest.mark.parametrize("how", [{"strength": 0.5}, {"mask": True}], ids=str)
def test_a_guide_that_divides_the_attention_is_refused(how: dict[str, Any]) -> None:
    model, calls = LTX_VIDEO.make(), list[int]()
    block = model.model.diffusion_model.transformer_blocks[0]
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match="strength other than 1 or with an attention mask"):
        LTX_VIDEO.sample(tiny.edited(model, Temperature(0.5)), **guided(**how))
    assert not calls
    LTX_VIDEO.sample(model, **guided(**how))
    assert calls


def test_the_model_with_audio_is_not_taken_for_it() -> None:
    small = {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 1}
    small |= {"audio_num_attention_heads": 4, "audio_attention_head_dim": 16}
    small |= {"cross_attention_dim": 64, "audio_cross_attention_dim": 64}
    config = comfy.supported_models.LTXAV(
        {"image_model": "ltxav", "caption_channels": TEXT_WIDTH, **small}
    )
    with pytest.raises(ValueError, match="LTXAVModel is of no family this pack knows"):
        layout_of(families.patcher(config, 0))
