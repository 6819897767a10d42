"""VDiT Token Heatmap on the toy world, where the prompt says what is to be seen where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from torch import Tensor
from vdit_attention.nodes.capture import VDiTCapture
from vdit_attention.nodes.toy import VDiTToyWorld
from vdit_attention.nodes.words import VDiTTokenHeatmap
from vdit_attention.vdit_core.host.toy_sampling import (
    SamplerSettings,
    decode_clips,
    sample_latents,
)
from vdit_attention.vdit_core.record import Record, load_record, save_record

CAPTURE: dict[str, Any] = {"layers": "all", "heads": "all", "steps": "mid", "branch": "cond"}
MOMENT: dict[str, Any] = {"layers": "all", "step": "mid", "branch": "both"}
LOOK = MOMENT | {"opacity": 0.6, "threshold": 0.5}
PROMPT = "a red circle falling on a striped background"
SEEDS = [4, 5]


@pytest.fixture(autouse=True)
def previews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))


def run(node: Any, *args: Any, **inputs: Any) -> Any:
    return node.PREPARE_CLASS_CLONE(None).execute(*args, **inputs).result


class Watched:
    """Two videos of one prompt, and where its words were looked at from."""

    def __init__(self, variant: str) -> None:
        model, self.clip, vae = run(VDiTToyWorld, variant)
        watched, self.record = run(VDiTCapture, model, map_size=16, words=True, **CAPTURE)
        with torch.inference_mode():
            settings = SamplerSettings()
            self.samples = sample_latents(watched, self.clip, [PROMPT] * 2, SEEDS, settings)
            clips = decode_clips(vae, self.samples)  # [2, 3, F, H, W]
        self.frames = clips.permute(0, 2, 3, 4, 1).flatten(0, 1).clone()
        self.object = (self.frames[..., 0] - self.frames[..., 1]).clamp_min(0) > 0.3

    def look(self, words: str, **asked: Any) -> Any:
        given: dict[str, Any] = {"record": self.record, "frames": self.frames, "words": words}
        given |= {"latent": {"samples": self.samples}, "clip": self.clip, "text": PROMPT}
        return run(VDiTTokenHeatmap, **(LOOK | given | asked))


@pytest.fixture(scope="module")
def wan() -> Watched:
    return Watched("wan")


@pytest.mark.parametrize("variant", ["wan", "mochi"])
def test_red_is_looked_at_from_what_is_red(variant: str, request: pytest.FixtureRequest) -> None:
    toy = request.getfixturevalue("wan") if variant == "wan" else Watched(variant)
    overlay, mask, soft, sheet, report, csv = toy.look("red")
    count = len(toy.frames)
    assert overlay.shape == toy.frames.shape and mask.shape == soft.shape == (count, 64, 64)
    assert len(sheet) == 2 and report.count("Where words are looked at from") == 2
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    inside, outside = soft[toy.object], soft[~toy.object]
    assert float(inside.mean()) > 2 * float(outside.mean())
    assert len(csv.splitlines()) == 1 + 2 * 5 * 8 * 8
    for video in (slice(0, 17), slice(17, 34)):
        overlap = (mask.bool() & toy.object)[video].sum() / toy.object[video].sum()
        assert float(overlap) > 0.5


def test_striped_is_looked_at_from_everywhere_else(wan: Watched) -> None:
    soft: Tensor = wan.look("striped")[2]
    assert float(soft[wan.object].mean()) < float(soft[~wan.object].mean())


def test_a_saved_record_gives_the_same(wan: Watched, tmp_path: Path) -> None:
    save_record(wan.record.data, tmp_path / "a.safetensors")
    loaded = Record(load_record(tmp_path / "a.safetensors"))
    fresh, again = wan.look("red, circle"), wan.look("red, circle", record=loaded, latent=None)
    assert all(torch.equal(a, b) for a, b in zip(fresh[:4], again[:4], strict=True))
    assert fresh[4:] == again[4:]


def test_words_by_number_need_no_clip(wan: Watched) -> None:
    named = wan.look("red")
    numbered = wan.look("1", clip=None, text="")
    assert torch.equal(named[0], numbered[0]) and torch.equal(named[2], numbered[2])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"words": "blue"}, "'blue' is not in the prompt; its words are a, red, circle, falling"),
        ({"words": "red", "clip": None}, "clip: connect the text encoder that goes with text"),
        ({"words": "red", "text": "a red ring"}, "it has 3 tokens, but the prompt of this record"),
        ({"words": "red", "frames": torch.rand(33, 8, 8, 3)}, "frames: 33 frames are not 2 videos"),
        ({"words": "red", "branch": "uncond"}, "branch"),
    ],
)
def test_what_does_not_fit_is_said(wan: Watched, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wan.look(**asked)


def test_the_switch_is_named_where_it_was_off(wan: Watched) -> None:
    model, record = run(VDiTCapture, run(VDiTToyWorld, "wan")[0], map_size=16, **CAPTURE)
    sample_latents(model, wan.clip, [PROMPT], [4], SamplerSettings(steps=2))
    with pytest.raises(ValueError, match="turn on words on VDiT Capture"):
        wan.look("red", record=record, latent=None)
