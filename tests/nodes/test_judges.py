"""LPIPS and CLIP through the nodes: weights of the right form, and words where they lack."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import comfy.clip_vision
import folder_paths
import pytest
import torch
import torchvision
from torch import Tensor
from vdit_attention.nodes.study import VDiTCompareVideos
from vdit_attention.nodes.sweep import VDiTSweepReport
from vdit_attention.vdit_core.host.judges import FILES, judges

FRAMES, SIZE = 10, 36  # more frames than are encoded at once


def video(seed: int) -> Tensor:
    return torch.rand(FRAMES, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder of its own; whoever opens a connection fails."""

    def refused(*_: Any) -> None:
        raise AssertionError("a network connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {})
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture
def weights(models: Path) -> Path:
    """Random LPIPS weights in the two files."""
    (models / "lpips").mkdir()
    network, linear = FILES
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), models / "lpips" / network)
    widths = enumerate((64, 192, 384, 256, 256))
    mixes = {f"lin{n}.model.1.weight": torch.rand(1, width, 1, 1) for n, width in widths}
    torch.save(mixes, models / "lpips" / linear)
    return models / "lpips"


@pytest.fixture(scope="module")
def clip_vision(tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"intermediate_size": 64, "hidden_act": "quick_gelu", "image_size": 32}
    config |= {"patch_size": 8, "num_channels": 3, "projection_dim": 24}
    config |= {"model_type": "clip_vision_model"}
    path = tmp_path_factory.mktemp("clip_vision") / "config.json"
    path.write_text(json.dumps(config), "utf-8")
    model = comfy.clip_vision.ClipVisionModel(str(path))
    torch.manual_seed(0)
    for value in model.model.parameters():
        value.data.normal_(std=0.3)
    return model


def compare(a: Tensor, b: Tensor, **more: Any) -> tuple[Any, ...]:
    node: Any = VDiTCompareVideos.PREPARE_CLASS_CLONE(None)
    return node.execute(a=a, b=b, **more).result


def test_missing_files_are_named_with_their_place_and_source(models: Path) -> None:
    with pytest.raises(FileNotFoundError, match="never downloads") as refused:
        compare(video(0), video(1), lpips=True)
    said = str(refused.value)
    assert str(models / "lpips") in said
    assert all(name in said and source in said for name, source in FILES.items())


@torch.inference_mode()
def test_lpips_comes_from_the_two_files(weights: Path) -> None:
    a, b = video(0), video(1)
    report, csv = compare(a, b, lpips=True)[1::3][:2]
    judge = judges(None, True).perceive
    assert judge is not None
    assert f"LPIPS (0 = alike){float(judge(a, b).mean()):>16.4f}" in report
    assert csv.splitlines()[0].endswith(",LPIPS") and float(judge(a, b).min()) > 0


@torch.inference_mode()
def test_clip_compares_frames_and_neighbours(clip_vision: Any) -> None:
    a, b = video(0), video(1)
    report, csv = compare(a, b, clip_vision=clip_vision)[1::3][:2]
    seen = [
        torch.cat([clip_vision.encode_image(frame[None])["image_embeds"] for frame in x])
        for x in (a, b)
    ]
    unit = [x / x.norm(dim=-1, keepdim=True) for x in seen]
    wanted = float((unit[0] * unit[1]).sum(-1).mean())
    assert f"CLIP (1 = alike){wanted:>17.4f}" in report
    steady = [float((x[1:] * x[:-1]).sum(-1).mean()) for x in unit]
    line = next(line for line in report.splitlines() if line.startswith("CLIP consistency"))
    assert [float(x) for x in line.split()[2:4]] == pytest.approx(steady, abs=1e-4)
    assert csv.splitlines()[0].endswith(",CLIP likeness")


def test_features_that_are_no_rows_are_refused() -> None:
    class Tokens:
        def encode_image(self, frames: Tensor) -> dict[str, Tensor]:
            return {"image_embeds": torch.zeros(len(frames), 7, 4)}

    with pytest.raises(ValueError, match=r"features of shape \(10, 7, 4\)"):
        compare(video(0), video(1), clip_vision=Tokens())


@torch.inference_mode()
def test_a_sweep_can_rank_by_both(weights: Path, clip_vision: Any) -> None:
    def ranked(measure: str) -> list[str]:
        node: Any = VDiTSweepReport.PREPARE_CLASS_CLONE(None)
        found = node.execute(
            videos=[video(0), video(1), 0.9 * video(0)],
            labels=["none", "layer 0", "layer 1"],
            measure=[measure],
            spare=[1],
            value=[1.0],
            spared_value=[0.0],
            clip_vision=[clip_vision],
            lpips=[True],
        )
        return [line.split(",")[2] for line in found.result[3].splitlines()[1:]]

    assert ranked("LPIPS") == ["", "1", "2"] and ranked("CLIP") == ["", "1", "2"]
