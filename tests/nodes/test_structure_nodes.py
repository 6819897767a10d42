"""VDiT Structure and VDiT Text Attention, as ComfyUI runs them, and the words of its tokenizers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folder_paths
import pytest
import torch
from comfy.text_encoders.genmo import MochiT5Tokenizer
from comfy.text_encoders.hunyuan_video import HunyuanVideoTokenizer
from vdit_attention.nodes.capture import VDiTCapture
from vdit_attention.nodes.structure import VDiTStructure, VDiTTextAttention
from vdit_attention.tests.nodes.families import MOCHI
from vdit_attention.tests.nodes.tiny import empty_latent, sample, tiny_wan
from vdit_attention.vdit_core.figures.structure import VIEWS
from vdit_attention.vdit_core.host.toy_text import ToyTokenizer
from vdit_attention.vdit_core.host.words import prompt_words
from vdit_attention.vdit_core.pairs import Latent
from vdit_attention.vdit_core.record import Record, load_record, save_record
from vdit_attention.vdit_core.toy.text import WORDS

WHEN = {"step": "mid", "branch": "both"}


@pytest.fixture(autouse=True)
def previews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    return tmp_path


def captured(batch: int = 1) -> tuple[Record, Latent]:
    node: Any = VDiTCapture.PREPARE_CLASS_CLONE(None)
    asked = dict.fromkeys(("sinks", "structure", "text"), True)
    model, record = node.execute(tiny_wan(), "all", "all", "mid", "both", 16, **asked).result
    return record, {"samples": sample(model, latent=empty_latent(batch))}


@pytest.fixture(scope="module")
def capture() -> tuple[Record, Latent]:
    return captured()


def look(record: Record, latent: Latent | None = None, **asked: Any) -> Any:
    node: Any = VDiTStructure.PREPARE_CLASS_CLONE(None)
    chosen = {"view": "looked at", "layer": "all", "head": "mean"} | WHEN | asked
    return node.execute(record=record, latent=latent, **chosen)


def read(record: Record, latent: Latent | None = None, **asked: Any) -> Any:
    node: Any = VDiTTextAttention.PREPARE_CLASS_CLONE(None)
    return node.execute(
        record=record, latent=latent, layer="all", **({"tokens": 24} | WHEN | asked)
    )


def clip_of(tokenizer: Any) -> Any:
    """As much of ComfyUI's CLIP as words need."""

    def tokenize(text: str, return_word_ids: bool = False) -> dict[str, Any]:
        return tokenizer.tokenize_with_weights(text, return_word_ids)

    return SimpleNamespace(tokenizer=tokenizer, tokenize=tokenize)


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_a_picture_a_preview_a_table_and_csv(
    view: str, capture: tuple[Record, Latent], previews: Path
) -> None:
    record, latent = capture
    images = torch.rand(9, 20, 28, 3)
    second = {"other": record, "other_latent": latent} if view == "similarity" else {}
    output = look(record, latent, view=view, images=images, **second)
    image, report, csv = output.result
    assert image.ndim == 4 and image.shape[0] == 1 and image.shape[3] == 3
    assert csv.startswith("video,step,branch,layer,")
    assert "step 1 (of 0 to 1)" in report
    shown = output.ui.as_dict()["images"]
    assert [(previews / found["filename"]).is_file() for found in shown] == [True]


def test_a_record_from_a_file_gives_the_same_pictures(
    capture: tuple[Record, Latent], tmp_path: Path
) -> None:
    record, latent = capture
    save_record(record.data, tmp_path / "a.safetensors")
    loaded = Record(load_record(tmp_path / "a.safetensors"))
    assert torch.equal(look(loaded)[0], look(record, latent)[0])
    assert torch.equal(read(loaded)[0], read(record, latent)[0])


def test_each_video_of_a_batch_is_drawn_on_its_own_frames() -> None:
    record, latent = captured(batch=2)
    images = torch.cat([torch.zeros(9, 20, 28, 3), torch.ones(9, 20, 28, 3)])
    image = look(record, latent, images=images)[0]
    assert image.shape[0] == 2
    dark, light = image[:, 140:160, 150:200].mean((1, 2, 3))
    assert float(dark) == 0 and float(light) == 1
    with pytest.raises(ValueError, match="17 frames are not 2 videos of one length"):
        look(record, latent, images=images[1:])


def test_a_latent_of_another_size_is_refused(capture: tuple[Record, Latent]) -> None:
    wrong = {"samples": torch.zeros(1, 16, 3, 7, 5)}
    with pytest.raises(ValueError, match="a record from another model or size"):
        look(capture[0], wrong)
    with pytest.raises(ValueError, match="a record from another model or size"):
        look(*capture, view="similarity", other=capture[0], other_latent=wrong)


def test_text_attention_has_words_where_the_tokenizer_gives_them(
    capture: tuple[Record, Latent],
) -> None:
    clip = clip_of(ToyTokenizer(WORDS))
    text = "a red circle falling on a striped background"  # eight words, as the tiny prompts
    image, report, csv = read(*capture, clip=clip, text=text).result
    assert image.shape[0] == 1 and "first token 'a'" in report and ",falling," in csv
    with pytest.raises(ValueError, match=r"it has 11 tokens, .* of this record has 8"):
        read(*capture, clip=clip, text=f"{text} a red ring")
    with pytest.raises(ValueError, match="clip: connect the text encoder"):
        read(*capture, text=text)


def test_text_that_was_not_captured_names_its_switch() -> None:
    node: Any = VDiTCapture.PREPARE_CLASS_CLONE(None)
    model, record = node.execute(MOCHI.make(), "all", "all", "mid", "both", 16).result
    MOCHI.sample(model)
    with pytest.raises(ValueError, match="turn on text on VDiT Capture"):
        read(record)


def test_words_of_a_t5_prompt_end_with_its_end_and_have_no_padding() -> None:
    words = prompt_words(clip_of(MochiT5Tokenizer()), "a red circle")
    assert words == ["▁", "a", "red", "circle", "</s>"]


def test_words_of_a_template_are_those_that_its_encoder_keeps() -> None:
    """Its encoder keeps the header's last sign where no line ends follow it as one token."""
    words = prompt_words(clip_of(HunyuanVideoTokenizer()), "circle")
    assert [word for word in words if word != "<|end_header_id|>"] == ["circle", "<|eot_id|>"]


def test_toy_words_are_the_words() -> None:
    assert prompt_words(clip_of(ToyTokenizer(WORDS)), "a red ring") == ["a", "red", "ring"]
