"""The report of a sweep: planted changes come back as ranks, numbers and a schedule."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.figures.judging import Judges
from vdit_attention.vdit_core.figures.sweep_report import Asked, SweepReport, report_sweep
from vdit_attention.vdit_core.selection import parse_values

FRAMES, HEIGHT, WIDTH = 3, 20, 28
SHIFTS = {5: 0.02, 0: 0.2, 3: 0.1, 1: 0.0}  # of the brightness, by layer, in the order given


def video(shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.7 * torch.rand(FRAMES, HEIGHT, WIDTH, 3, generator=generator) + shift


def report(
    shifts: dict[int, float] = SHIFTS,
    form: str = "layer {}",
    baseline: bool = True,
    reference: Tensor | None = None,
    source: Tensor | None = None,
    **asked: Any,
) -> SweepReport:
    videos = [video()] * baseline + [video(shift) for shift in shifts.values()]
    labels = ["none"] * baseline + [form.format(layer) for layer in shifts]
    return report_sweep(videos, labels, Asked(**asked), reference, source)


def rows(found: SweepReport) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(found.table.csv()))]


def test_layers_rank_by_their_change() -> None:
    found = rows(report())
    assert [*found[0]][:4] == ["label", "layer", "rank", "change"]
    assert [(row["label"], row["layer"], row["rank"]) for row in found] == [
        ("none", "", ""),
        ("layer 5", "5", "3"),
        ("layer 0", "0", "1"),
        ("layer 3", "3", "2"),
        ("layer 1", "1", "4"),
    ]
    for row, shift in zip(found, [0.0, *SHIFTS.values()], strict=True):
        assert float(row["change"]) == pytest.approx(255 * shift, abs=1e-4)
        assert float(row["mean difference (of 255)"]) == pytest.approx(255 * shift, abs=1e-4)


def test_every_measure_has_its_number() -> None:
    noise = 0.2 * torch.rand(video().shape, generator=torch.Generator().manual_seed(1))
    videos = [video(), video() + noise]
    for measure, wanted in {
        "difference": 255 * float(noise.double().mean()),
        "PSNR": 255 * math.sqrt(float(noise.double().square().mean())),
    }.items():
        found = report_sweep(videos, ["none", "layer 2"], Asked(measure))
        assert float(rows(found)[1]["change"]) == pytest.approx(wanted, rel=1e-4)
        assert float(rows(found)[0]["change"]) == 0
    one = rows(report_sweep(videos, ["none", "layer 2"], Asked("SSIM")))[1]
    assert float(one["change"]) == pytest.approx(1 - float(one["SSIM"])) and 0 < float(one["SSIM"])


def test_qualities_that_move_up_or_down_can_rank() -> None:
    """Layer 0 flickers, layer 1 is grey, layer 2 is blurred most, layer 3 somewhat."""
    whole = video()[:1].repeat(3, 1, 1, 1)
    flicker = whole.clone()
    flicker[1::2] += 0.2
    grey = whole.mean(-1, keepdim=True).expand_as(whole)
    half = (whole + whole.roll(1, 2)) / 2
    flat = (half + half.roll(1, 1)) / 2
    labels = ["none", *(f"layer {n}" for n in range(4))]
    firsts: dict[str, str] = {}
    for measure in ("consistency", "sharpness", "colourfulness"):
        found = rows(report_sweep([whole, flicker, grey, flat, half], labels, Asked(measure)))
        firsts[measure] = next(row["label"] for row in found if row["rank"] == "1")
        own = [float(row[measure]) for row in found]
        changes = [float(row["change"]) for row in found]
        assert changes == pytest.approx([abs(value - own[0]) for value in own])
    assert firsts == {"consistency": "layer 0", "sharpness": "layer 2", "colourfulness": "layer 1"}


def test_brought_weights_can_rank() -> None:
    def apart(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean((1, 2, 3))

    judges = Judges(lambda frames: frames.flatten(1), apart)
    videos, labels = [video(), video(0.1), 1 - video()], ["none", "layer 0", "layer 1"]
    found = rows(report_sweep(videos, labels, Asked("LPIPS"), judges=judges))
    assert [row["LPIPS"] for row in found] == [row["change"] for row in found]
    found = rows(report_sweep(videos, labels, Asked("CLIP"), judges=judges))
    assert [row["rank"] for row in found] == ["", "2", "1"]
    for row in found:
        assert float(row["change"]) == pytest.approx(1 - float(row["CLIP likeness"]))
    assert "CLIP consistency" in found[0] and "LPIPS" in found[0]


def test_the_schedule_spares_the_first_and_can_be_read() -> None:
    assert report().schedule == "all=0.7; 0,3=0"
    assert report(spare=0, value=0.9).schedule == "all=0.9"
    found = report(spare=1, value=0.5, spared_value=1.0).schedule
    assert found == "all=0.5; 0=1"
    assert parse_values(found).resolve(6, 0.0) == (1.0, 0.5, 0.5, 0.5, 0.5, 0.5)
    assert "schedule, sparing the first 2: all=0.7; 0,3=0" in report().report


def test_without_a_layer_the_least_changed_ranks_first() -> None:
    found = report(form="all but layer {}", spare=1)
    assert [row["rank"] for row in rows(found)] == ["", "2", "4", "3", "1"]
    assert found.schedule == "all=0.7; 1=0"


def test_another_reference_and_no_baseline() -> None:
    found = report(baseline=False, reference=video(0.2))
    assert [row["rank"] for row in rows(found)] == ["2", "4", "3", "1"]


def test_a_source_is_a_second_reference() -> None:
    plain, found = report(), report(source=video(0.2))
    to_source = [float(row["mean difference (of 255) to the source"]) for row in rows(found)]
    wanted = [255 * abs(0.2 - shift) for shift in (0.0, *SHIFTS.values())]
    assert to_source == pytest.approx(wanted, abs=1e-3)
    assert found.ranking.shape[1] > plain.ranking.shape[1]
    assert found.grid.shape[1] > plain.grid.shape[1]


def test_pictures_are_the_same_bits_again_and_show_the_spared() -> None:
    orange = torch.tensor([0xD5, 0x5E, 0x00]) / 255
    once, again, none = report(), report(), report(spare=0)
    assert torch.equal(once.ranking, again.ranking) and torch.equal(once.grid, again.grid)
    assert bool((once.ranking == orange).all(-1).any())
    assert not bool((none.ranking == orange).all(-1).any())


def test_many_layers_stay_a_picture_of_moderate_size() -> None:
    found = report({n: n / 200 for n in range(48)}, source=video(0.2))
    assert all(max(picture.shape[1:3]) <= 3000 for picture in (found.grid, found.ranking))


def test_identical_videos_can_be_drawn() -> None:
    found = report({0: 0.0, 1: 0.0}, source=video())
    assert [row["rank"] for row in rows(found)] == ["", "1", "2"]


def test_what_cannot_be_compared_is_refused() -> None:
    def refused(message: str, videos: list[Tensor], labels: list[str], **more: Any) -> None:
        with pytest.raises(ValueError, match=message):
            report_sweep(videos, labels, Asked(more.pop("measure", "difference")), **more)

    two, long = [video(), video(0.1)], torch.zeros(FRAMES + 1, HEIGHT, WIDTH, 3)
    refused("got 2 videos and 3 labels", two, ["none", "layer 0", "layer 1"])
    refused("no video is labelled 'none'; turn on baseline", two, ["layer 0", "layer 1"])
    refused("'T = 2' names no layer", two, ["none", "T = 2"])
    refused("no label names a layer", two[:1], ["none"])
    refused("layer 3 comes more than once", [*two, video()], ["none", "layer 3", "layer 3"])
    mixed = ["none", "layer 3", "all but layer 2"]
    refused("cannot be ranked together", [*two, video()], mixed)
    refused("'layer 0' has 4 × 20 × 28 frames", [video(), long], ["none", "layer 0"])
    refused("'source' has 4 × 20 × 28 frames", two, ["none", "layer 0"], source=long)
    refused("measure: got 'VMAF', allowed are", two, ["none", "layer 0"], measure="VMAF")
    refused("LPIPS needs weights.*turn on lpips", two, ["none", "layer 0"], measure="LPIPS")
    refused("CLIP needs weights.*to clip_vision", two, ["none", "layer 0"], measure="CLIP")
    refused("holds NaN", [video(), video() * math.nan], ["none", "layer 0"])
