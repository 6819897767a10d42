"""What a video is like by itself, against float64 numpy written apart, and in planted cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.figures import compare_videos
from vdit_attention.vdit_core.figures.judging import Judges, Prompt
from vdit_attention.vdit_core.video_metrics import (
    colourfulness,
    consistency,
    cosine,
    quality_of,
    sharpness,
)

FRAMES, HEIGHT, WIDTH = 5, 11, 13


def video(seed: int = 0) -> Tensor:
    return torch.rand(FRAMES, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(seed))


def numpy_consistency(frames: np.ndarray) -> list[float]:
    return [1 - np.abs(frames[t + 1] - frames[t]).mean() for t in range(len(frames) - 1)]


def numpy_sharpness(frames: np.ndarray) -> list[float]:
    found = []
    for frame in frames:
        luma = 255 * (0.299 * frame[..., 0] + 0.587 * frame[..., 1] + 0.114 * frame[..., 2])
        rows, cols = luma.shape
        out = np.zeros_like(luma)
        for y in range(rows):
            for x in range(cols):
                beside = [(max(y - 1, 0), x), (min(y + 1, rows - 1), x)]
                beside += [(y, max(x - 1, 0)), (y, min(x + 1, cols - 1))]
                out[y, x] = sum(luma[place] for place in beside) - 4 * luma[y, x]
        found.append(np.mean((out - out.mean()) ** 2))
    return found


def numpy_colourfulness(frames: np.ndarray) -> list[float]:
    found = []
    for frame in 255 * frames:
        rg = frame[..., 0] - frame[..., 1]
        yb = 0.5 * (frame[..., 0] + frame[..., 1]) - frame[..., 2]
        spread, shift = np.hypot(rg.std(), yb.std()), np.hypot(rg.mean(), yb.mean())
        found.append(spread + 0.3 * shift)
    return found


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (consistency, numpy_consistency),
        (sharpness, numpy_sharpness),
        (colourfulness, numpy_colourfulness),
    ],
    ids=["consistency", "sharpness", "colourfulness"],
)
def test_each_is_what_numpy_says(ours, theirs) -> None:
    found, wanted = ours(video()), theirs(video().double().numpy())
    assert found.tolist() == pytest.approx(wanted, rel=1e-6)


def test_a_still_grey_video_is_steady_and_neither_sharp_nor_colourful() -> None:
    found = quality_of(torch.full((3, 8, 9, 3), 0.4))
    assert found.consistency.tolist() == [1, 1]
    assert found.sharpness.abs().max() < 1e-9 and found.colourfulness.abs().max() < 1e-9


def test_flicker_costs_consistency_alone() -> None:
    still = video()[:1].repeat(4, 1, 1, 1) * 0.8
    flicker = still + torch.tensor([0.0, 0.1, 0.0, 0.1])[:, None, None, None]
    assert consistency(flicker).tolist() == pytest.approx([0.9] * 3, abs=1e-6)
    assert consistency(still).tolist() == [1] * 3
    assert torch.allclose(sharpness(flicker), sharpness(still), rtol=1e-5)
    assert torch.allclose(colourfulness(flicker), colourfulness(still), rtol=1e-4)


def test_a_blurred_copy_is_less_sharp() -> None:
    sharp = video()
    blurred = (sharp + sharp.roll(1, 1) + sharp.roll(1, 2) + sharp.roll((1, 1), (1, 2))) / 4
    assert bool((sharpness(blurred) < 0.5 * sharpness(sharp)).all())


def test_a_grey_copy_has_no_colour_and_the_sharpness_of_its_luma() -> None:
    weights = torch.tensor([0.299, 0.587, 0.114])
    grey = (video() @ weights)[..., None].expand(-1, -1, -1, 3)
    assert colourfulness(grey).abs().max() < 1e-4
    assert torch.allclose(sharpness(grey), sharpness(video()), rtol=1e-5)


def test_known_colours() -> None:
    red = torch.zeros(1, 4, 4, 3)
    red[..., 0] = 1.0
    assert float(colourfulness(red)) == pytest.approx(0.3 * np.hypot(255, 127.5))
    half = red.clone()
    half[:, :2] = 0.0  # two colours in equal shares: the spread is half their distance
    wanted = np.hypot(127.5, 63.75) + 0.3 * np.hypot(127.5, 63.75)
    assert float(colourfulness(half)) == pytest.approx(wanted)


def test_cosine_knows_directions() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    y = torch.tensor([[3.0, 0.0], [1.0, -1.0], [-1.0, 0.0]])
    assert cosine(x, y).tolist() == pytest.approx([1, 0, -1])


def test_the_comparison_tells_the_change_of_each_and_keeps_the_numbers_by_frame() -> None:
    a = video() * 0.5
    b = a.clone()
    b[1::2] += 0.25
    found = compare_videos(a, b)
    assert found.judged.change("consistency") == pytest.approx(
        float(consistency(b).mean() - consistency(a).mean())
    )
    assert found.judged.change("CLIP consistency") is None
    lines = found.table.csv().splitlines()
    names = lines[0].split(",")
    assert names[5:] == [
        f"{name} of {x}" for name in ("consistency", "sharpness", "colourfulness") for x in "ab"
    ]
    last = lines[-1].split(",")
    assert last[names.index("consistency of a")] == ""  # no frame after the last one
    at = names.index("sharpness of b")
    column = [float(line.split(",")[at]) for line in lines[1:]]
    assert column == pytest.approx(sharpness(b).tolist())
    assert f"{float(colourfulness(b).mean()):.2f}" in found.report
    assert "CLIP" not in found.report and "LPIPS" not in found.report


def test_a_single_picture_has_no_consistency() -> None:
    found = compare_videos(video()[:1], video(1)[:1])
    assert found.judged.change("consistency") is None
    assert "–" in found.report


def test_brought_weights_add_their_numbers() -> None:
    judges = Judges(lambda frames: frames.flatten(1), lambda a, b: (a - b).abs().mean((1, 2, 3)))
    a, b = video(), video(1)
    found = compare_videos(a, b, judges)
    assert found.judged.clip is not None and found.judged.lpips is not None
    assert torch.allclose(found.judged.clip, cosine(a.flatten(1), b.flatten(1)))
    beside = cosine(b[:-1].flatten(1), b[1:].flatten(1)).mean()
    own = cosine(a[:-1].flatten(1), a[1:].flatten(1)).mean()
    assert found.judged.change("CLIP consistency") == pytest.approx(float(beside - own))
    assert found.table.csv().splitlines()[0].endswith(",LPIPS,CLIP likeness")
    assert f"{float(found.judged.lpips.mean()):.4f}" in found.report


def test_the_video_that_shows_what_the_prompt_says_agrees_more() -> None:
    """Planted: features are mean colours, and the prompt asks for red."""
    red, blue = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    judges = Judges(lambda frames: frames.mean((1, 2)), prompt=Prompt(2 * red, "Red it is."))
    a = blue.expand(FRAMES, 40, WIDTH, 3).clone()
    b = red.expand(FRAMES, 40, WIDTH, 3).clone()
    b[0] = torch.tensor([1.0, 0.0, 1.0])
    found = compare_videos(a, b, judges)
    assert found.judged.a.curves["prompt agreement"].tolist() == [0] * FRAMES
    curve = found.judged.b.curves["prompt agreement"].tolist()
    assert curve == pytest.approx([0.5**0.5, *[1] * (FRAMES - 1)])
    change = sum(curve) / FRAMES
    assert found.judged.change("prompt agreement") == pytest.approx(change)
    lines = found.table.csv().splitlines()
    at = lines[0].split(",").index("prompt agreement of b")
    assert [float(line.split(",")[at]) for line in lines[1:]] == pytest.approx(curve)
    assert f"prompt agreement           0.0000{change:>9.4f}{change:>10.4f}" in found.report
    assert found.report.endswith("with the prompt's. Red it is.")


def test_agreement_is_drawn_where_there_is_a_prompt() -> None:
    """A plot more, between which the others draw together."""
    a, b = video(), video(1)
    judges = Judges(lambda frames: frames.mean((1, 2)), prompt=Prompt(torch.ones(3)))
    without, with_it = (compare_videos(a, b, x).image for x in (None, judges))
    assert without.shape == with_it.shape
    lower = with_it.shape[1] - 200
    assert not torch.equal(without[:, lower:], with_it[:, lower:])
    assert torch.equal(without[:, : lower - 250], with_it[:, : lower - 250])
    alone, four = (compare_videos(a[:1], b[:1], x).image for x in (None, judges))
    assert four.shape[2] > alone.shape[2]
