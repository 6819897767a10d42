"""Compared videos: what the numbers are, what is laid out, what is refused in which words."""

from __future__ import annotations

import math

import matplotlib
import pytest
import torch
from vdit_attention.vdit_core.figures import Row, compare_videos, sweep_grid
from vdit_attention.vdit_core.figures.pictures import evenly


def test_a_comparison_is_the_same_bits_each_time_and_changes_no_settings() -> None:
    before = dict(matplotlib.rcParams)
    video = torch.rand(3, 5, 7, 3)
    first, second = compare_videos(video, video / 2), compare_videos(video, video / 2)
    assert torch.equal(first.image, second.image)
    assert dict(matplotlib.rcParams) == before


def test_psnr_and_ssim_of_known_videos() -> None:
    a, b = torch.full((3, 16, 20, 3), 0.3), torch.full((3, 16, 20, 3), 0.4)
    found = compare_videos(a, b)
    assert found.psnr == pytest.approx(20, abs=1e-4)
    assert found.ssim == pytest.approx((2 * 0.3 * 0.4 + 1e-4) / (0.09 + 0.16 + 1e-4), abs=1e-4)
    assert "20.00" in found.report and "3 frames of 20 × 16 pixels" in found.report


def test_psnr_of_a_video_is_not_the_mean_of_its_frames() -> None:
    a, b = torch.zeros(2, 16, 16, 3), torch.zeros(2, 16, 16, 3)
    b[1] = 0.1  # mean squared error 0.005 over both frames
    found = compare_videos(a, b)
    assert found.psnr == pytest.approx(-10 * math.log10(0.005), abs=1e-4)
    assert "1 of 2" in found.report


def test_identical_videos_are_called_identical() -> None:
    video = torch.rand(5, 12, 14, 3)
    found = compare_videos(video, video.clone())
    assert found.psnr == 100
    assert found.ssim == pytest.approx(1, abs=1e-6)
    assert "infinite PSNR; it is given as 100 dB" in found.report
    assert "5 of 5" in found.report


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 5, 7, 3), (2, 4, 300, 4), (9, 300, 500, 3)])
def test_any_size_can_be_compared(shape: tuple[int, ...]) -> None:
    found = compare_videos(torch.rand(shape), torch.rand(shape))
    assert math.isfinite(found.psnr) and math.isfinite(found.ssim)
    assert found.image.shape[0] == 1


def test_videos_that_cannot_be_compared_are_refused_in_words() -> None:
    video = torch.rand(4, 6, 8, 3)
    with pytest.raises(ValueError, match=r"a has 4 frames of 8 × 6 pixels, b has 3 frames.*cut"):
        compare_videos(video, video[:3])
    with pytest.raises(ValueError, match="resize"):
        compare_videos(video, video[:, :5])
    with pytest.raises(ValueError, match="b: got a tensor of shape"):
        compare_videos(video, video[0])
    with pytest.raises(ValueError, match="a: the video holds NaN"):
        compare_videos(video * math.nan, video)


def test_frames_are_spread_evenly_with_both_ends() -> None:
    assert evenly(4, 6) == [0, 1, 2, 3]
    assert evenly(17, 5) == [0, 4, 8, 12, 16]
    assert evenly(81, 6)[0] == 0 and evenly(81, 6)[-1] == 80


def test_a_sweep_has_one_row_per_video() -> None:
    videos = [torch.zeros(3, 8, 8, 3), torch.ones(3, 8, 8, 3)]
    rows = [Row(video, f"T = {n}") for n, video in enumerate(videos, 1)]
    one, two = sweep_grid(rows[:1]), sweep_grid(rows)
    assert one.shape[2] == two.shape[2]
    assert two.shape[1] > one.shape[1]


def test_a_sweep_of_nothing_or_of_different_videos_is_refused() -> None:
    with pytest.raises(ValueError, match="got no video"):
        sweep_grid([])
    with pytest.raises(ValueError, match="one length and size"):
        sweep_grid([Row(torch.zeros(3, 8, 8, 3), "a"), Row(torch.zeros(2, 8, 8, 3), "b")])
