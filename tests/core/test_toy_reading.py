"""Reading a toy scene back: right on rendered clips, also blurred and noisy; never a guess."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as nnf
from vdit_attention.vdit_core.toy.clips import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Scene,
    random_scenes,
    render,
)
from vdit_attention.vdit_core.toy.reading import (
    FIELDS,
    NONE,
    background_distance,
    read,
    track_distance,
)

HELD_OUT = 77_000_001


def _render(scenes: list[Scene], seed: int = HELD_OUT) -> Tensor:
    return render(scenes, torch.Generator().manual_seed(seed))


def _scene(colour: str, shape: str, background: str, motion: str) -> Scene:
    return Scene(
        tuple(COLOURS).index(colour),
        SHAPES.index(shape),
        BACKGROUNDS.index(background),
        MOTIONS.index(motion),
    )


def _wrong(batches: int, spoil) -> dict[str, int]:
    """Number of misread clips per word, of `batches` × 64."""
    generator = torch.Generator().manual_seed(HELD_OUT)
    wrong = dict.fromkeys(FIELDS, 0)
    for _ in range(batches):
        scenes = random_scenes(64, generator)
        reading = read(spoil(render(scenes, generator), generator))
        for field, right in reading.agrees(scenes).items():
            wrong[field] += (~right).sum().item()
    return wrong


def _as_it_is(clips: Tensor, _: torch.Generator) -> Tensor:
    return clips


def _blurred_and_noisy(clips: Tensor, generator: torch.Generator) -> Tensor:
    """About 24 dB: worse than the VAE is allowed to be."""
    blurred = nnf.avg_pool3d(clips, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
    return (blurred + 0.04 * torch.randn(clips.shape, generator=generator)).clamp(0, 1)


def test_right_on_rendered_clips():
    wrong = _wrong(16, _as_it_is)
    assert max(wrong.values()) <= 0.005 * 1024, wrong


def test_right_on_blurred_and_noisy_clips():
    wrong = _wrong(4, _blurred_and_noisy)
    assert max(wrong.values()) <= 0.02 * 256, wrong


def test_a_clip_without_an_object_is_unclear():
    reading = read(torch.full((1, 3, 17, 64, 64), 0.2))
    assert reading.colour.item() == reading.shape.item() == reading.motion.item() == NONE
    assert reading.background.item() == BACKGROUNDS.index("dark")
    assert reading.centre.isnan().all()


def test_noise_is_unclear():
    noise = torch.rand(2, 3, 17, 64, 64, generator=torch.Generator().manual_seed(1))
    reading = read(noise)
    for field in FIELDS:
        assert (getattr(reading, field) == NONE).all(), field


def test_an_object_that_rises_has_no_name():
    falling = _render([_scene("red", "circle", "dark", "falling")])
    assert read(falling).motion.item() == MOTIONS.index("falling")
    assert read(falling.flip(2)).motion.item() == NONE


def test_an_object_that_shrinks_has_no_name():
    growing = _render([_scene("red", "circle", "dark", "growing")])
    assert read(growing.flip(2)).motion.item() == NONE


def test_an_object_that_jumps_has_no_name():
    clip = _render([_scene("cyan", "square", "light", "still")])
    clip[:, :, 8:] = clip[:, :, 8:].roll(24, dims=-1)
    assert read(clip).motion.item() == NONE


def test_an_object_that_vanishes_has_no_motion():
    clip = _render([_scene("blue", "ring", "dark", "drifting")])
    clip[:, :, 5] = 0.2
    assert read(clip).motion.item() == NONE


def test_two_colours_are_unclear():
    red, blue = (_render([_scene(c, "circle", "dark", "still")]) for c in ("red", "blue"))
    red[:, :, ::2] = blue[:, :, ::2]
    assert read(red).colour.item() == NONE


def test_a_half_and_half_background_is_unclear():
    dark, light = (_render([_scene("red", "circle", b, "still")]) for b in ("dark", "light"))
    dark[..., :32] = light[..., :32]
    assert read(dark).background.item() == NONE


def test_track_distance_is_the_shift_in_pixels():
    clip = _render([_scene("green", "square", "dark", "still")])
    moved = clip.roll((3, -4), dims=(-2, -1))
    assert track_distance(read(clip), read(moved)).item() == pytest.approx(5, abs=0.2)


def test_track_distance_without_an_object_is_not_a_number():
    clip = _render([_scene("green", "square", "dark", "still")])
    empty = torch.full_like(clip, 0.5)
    assert track_distance(read(clip), read(empty)).isnan().item()


def test_background_distance_ignores_the_objects():
    red, blue = (_render([_scene(c, "circle", "striped", "still")]) for c in ("red", "blue"))
    assert background_distance(read(red), read(blue)).item() < 0.002
    assert background_distance(read(red), read((red + 0.1).clamp(0, 1))).item() == pytest.approx(
        0.1, abs=0.01
    )


def test_other_sizes_are_read_too():
    clip = _render([_scene("red", "circle", "light", "falling")])
    reading = read(clip[:, :, :13, :, :59])
    assert reading.centre.shape == (1, 13, 2)
    assert reading.mask.shape == (1, 13, 64, 59)


def test_a_wrong_layout_is_refused():
    with pytest.raises(ValueError, match=r"got shape \[17, 64, 64, 3\], need \[B, 3, F, R, C\]"):
        read(torch.zeros(17, 64, 64, 3))
