"""The nodes that show: pictures with their previews, in the order their inputs are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from torch import Tensor
from vdit_attention.nodes.capture import VDiTCapture
from vdit_attention.nodes.look import VDiTAttentionMap, VDiTStatistics
from vdit_attention.nodes.study import VDiTCompareVideos
from vdit_attention.tests.nodes.tiny import COLS, FRAMES, ROWS, empty_latent, sample, tiny_wan
from vdit_attention.vdit_core.figures import STATISTICS
from vdit_attention.vdit_core.pairs import Latent
from vdit_attention.vdit_core.record import Record, load_record, save_record

DEFAULTS = {"layer": "all", "head": "mean", "step": "mid", "branch": "both", "scale": "log"}


@pytest.fixture(autouse=True)
def previews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where previews go."""
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    return tmp_path


def captured(batch: int = 1, **asked: Any) -> tuple[Record, Latent]:
    chosen = {"layers": "all", "heads": "0,2", "steps": "mid", "branch": "both", "map_size": 16}
    node: Any = VDiTCapture.PREPARE_CLASS_CLONE(None)
    model, record = node.execute(tiny_wan(), **(chosen | asked)).result
    samples = sample(model, latent=empty_latent(batch))
    return record, {"samples": samples}


@pytest.fixture(scope="module")
def capture() -> tuple[Record, Latent]:
    return captured()


def look(record: Record, latent: Latent | None = None, **asked: str) -> Any:
    node: Any = VDiTAttentionMap.PREPARE_CLASS_CLONE(None)
    return node.execute(record=record, latent=latent, **(DEFAULTS | asked))


def test_the_inputs_keep_their_names_and_order() -> None:
    schema = VDiTAttentionMap.GET_SCHEMA()
    assert [i.id for i in schema.inputs] == ["record", "latent", *DEFAULTS]
    defaults = {i.id: getattr(i, "default", None) for i in schema.inputs[2:]}
    assert defaults == DEFAULTS
    inputs = [i.id for i in VDiTCompareVideos.GET_SCHEMA().inputs]
    assert inputs == ["a", "b", "clip_vision", "lpips", "clip", "prompt"]
    outputs = VDiTCompareVideos.GET_SCHEMA().outputs
    before = ["IMAGE", "STRING", "FLOAT", "FLOAT", "STRING"]
    assert [o.io_type for o in outputs] == before + 4 * ["FLOAT"]


def test_a_map_is_a_picture_and_a_preview(capture: tuple[Record, Latent], previews: Path) -> None:
    output = look(*capture)
    image: Tensor = output[0]
    assert image.ndim == 4 and image.shape[0] == 1 and image.shape[3] == 3
    assert image.dtype == torch.float32
    shown = output.ui.as_dict()["images"]
    assert [(previews / found["filename"]).is_file() for found in shown] == [True]


def test_one_layer_and_head_fill_the_page(capture: tuple[Record, Latent]) -> None:
    sheet, page = look(*capture)[0], look(*capture, layer="-1", head="2")[0]
    assert sheet.shape != page.shape


def test_a_record_from_a_file_needs_no_latent_and_gives_the_same_picture(
    capture: tuple[Record, Latent], tmp_path: Path
) -> None:
    record, latent = capture
    save_record(record.data, tmp_path / "a.safetensors")
    loaded = Record(load_record(tmp_path / "a.safetensors"))
    assert torch.equal(look(loaded)[0], look(record, latent)[0])


def test_every_video_of_the_batch_gets_a_picture() -> None:
    record, latent = captured(batch=2)
    assert look(record, latent)[0].shape[0] == 2


def test_a_record_that_nothing_filled_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="connect the sampler's LATENT"):
        look(Record())


@pytest.mark.parametrize("size", [(FRAMES + 1, ROWS, COLS), (FRAMES, COLS, ROWS)])
def test_a_latent_of_another_size_is_refused(
    capture: tuple[Record, Latent], size: tuple[int, int, int]
) -> None:
    with pytest.raises(ValueError, match="a record from another model or size"):
        look(capture[0], {"samples": torch.zeros(1, 16, *size)})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layer": "3"}, "layer 3, but this record's model has layers 0 to 2"),
        ({"layer": ""}, "layers: the text is empty"),
        ({"head": "1"}, "heads 0, 2 were captured"),
        ({"step": "0"}, "captured were .*steps 1"),
        ({"branch": "sideways"}, "allowed are both, cond, uncond"),
    ],
)
def test_what_was_not_captured_is_refused_in_words(
    capture: tuple[Record, Latent], asked: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        look(*capture, **asked)


def read(record: Record, latent: Latent | None = None, **asked: str) -> Any:
    node: Any = VDiTStatistics.PREPARE_CLASS_CLONE(None)
    chosen = {"statistic": "entropy share", "step": "mid", "branch": "both"} | asked
    return node.execute(record=record, latent=latent, **chosen)


def test_a_statistic_is_a_picture_a_preview_and_a_table(
    capture: tuple[Record, Latent], previews: Path
) -> None:
    output = read(*capture)
    image, report, csv = output.result
    assert image.ndim == 4 and image.shape[0] == 1 and image.shape[3] == 3
    assert csv.startswith("video,step,branch,layer,head,entropy share (%)\n0,")
    assert "Entropy share (%)" in report and len(report.splitlines()) == 7
    shown = output.ui.as_dict()["images"]
    assert [(previews / found["filename"]).is_file() for found in shown] == [True]


def test_each_video_of_the_batch_has_its_picture_and_table() -> None:
    every = ("sparsity", "structure", "sinks", "sensitivity", "temperatures")
    record, latent = captured(batch=2, **dict.fromkeys(every, True))
    for statistic in STATISTICS:
        image, report, csv = read(record, latent, statistic=statistic).result
        assert image.shape[0] == 2
        assert {line[:2] for line in csv.splitlines()[1:]} == {"0,", "1,"}
        assert "video 0" in report and "video 1" in report


def test_a_statistic_that_was_not_captured_names_its_switch(
    capture: tuple[Record, Latent],
) -> None:
    with pytest.raises(ValueError, match="turn on sinks on VDiT Capture and sample again"):
        read(*capture, statistic="coverage")
    with pytest.raises(ValueError, match="a record from another model or size"):
        read(capture[0], {"samples": torch.zeros(1, 16, FRAMES, COLS, ROWS)})


def test_two_videos_give_a_picture_a_report_and_two_numbers(previews: Path) -> None:
    node: Any = VDiTCompareVideos.PREPARE_CLASS_CLONE(None)
    a = torch.rand(5, 12, 14, 3)
    output = node.execute(a=a, b=(a + 0.1).clamp(0, 1))
    image, report, psnr, ssim, csv, *changes = output.result
    lines = csv.splitlines()
    assert lines[0].startswith("frame,PSNR (dB),SSIM,") and len(lines) == 1 + 5
    mean = sum(float(line.split(",")[2]) for line in lines[1:]) / 5
    assert mean == pytest.approx(ssim)
    assert image.shape[0] == 1 and image.shape[3] == 3
    assert f"{psnr:.2f}" in report and f"{ssim:.4f}" in report
    assert 20 < psnr < 30 and 0 < ssim < 1
    assert all(f"{change:.2f}" in report for change in changes[1:3]) and len(changes) == 4
    assert (previews / output.ui.as_dict()["images"][0]["filename"]).is_file()


def test_videos_of_different_length_are_refused() -> None:
    node: Any = VDiTCompareVideos.PREPARE_CLASS_CLONE(None)
    with pytest.raises(ValueError, match="they must be the same"):
        node.execute(a=torch.rand(5, 12, 14, 3), b=torch.rand(4, 12, 14, 3))
