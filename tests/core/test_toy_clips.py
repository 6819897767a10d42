"""The toy clips: the same seed gives the same clips, prompts come back, unknown words are named."""

from __future__ import annotations

import pytest
import torch
from vdit_attention.vdit_core.toy.clips import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Scene,
    random_scenes,
    render,
    render_with_objects,
    signed_distance,
)
from vdit_attention.vdit_core.toy.latents import fit_basis
from vdit_attention.vdit_core.toy.text import LENGTH, WORDS, embed, scene_of, word_ids, word_vectors


def _clips(seed: int, count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return render(random_scenes(count, generator), generator)


def test_same_seed_gives_the_same_clips():
    assert torch.equal(_clips(11), _clips(11))
    assert not torch.equal(_clips(11), _clips(12))


def test_clips_have_the_promised_shape_and_range():
    clips = _clips(3)
    assert clips.shape == (6, 3, 17, 64, 64)
    assert clips.min() >= 0
    assert clips.max() <= 1


def test_every_prompt_comes_back_from_its_words():
    for colour in range(len(COLOURS)):
        for motion in range(len(MOTIONS)):
            scene = Scene(colour, colour % len(SHAPES), motion % len(BACKGROUNDS), motion)
            words = [WORDS[i] for i in word_ids(scene.prompt)]
            assert " ".join(words) == scene.prompt


def test_case_and_punctuation_do_not_matter():
    assert word_ids("A red, Circle.") == word_ids("a red circle")


def test_unknown_words_are_named_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"does not know 'pink', 'cube'; its words are a, on, .*red"
    ):
        word_ids("a pink cube on a dark background")


def test_too_many_words_are_refused():
    with pytest.raises(ValueError, match=r"17 words, .* at most 16"):
        embed(["a " * 17], word_vectors())


def test_embedding_pads_with_zeros():
    text = embed(["red circle", ""], word_vectors())
    assert text.shape == (2, LENGTH, 64)
    assert torch.equal(text[0, 0], word_vectors()[WORDS.index("red")])
    assert text[0, 2:].abs().sum() == 0
    assert text[1].abs().sum() == 0


def test_unknown_shape_is_named():
    with pytest.raises(ValueError, match=r"got 'star', known are circle"):
        signed_distance("star", torch.zeros(1), torch.zeros(1), torch.ones(1))


def test_latents_keep_what_the_video_model_needs():
    basis = fit_basis(0, clips=64)
    clips = _clips(5)
    latents = basis.encode(clips)
    assert latents.shape == (6, 16, 5, 8, 8)
    assert 0.5 < latents.std() < 2
    assert (basis.decode(latents) - clips).square().mean() < 10**-2.3  # 23 dB


def test_a_prompt_gives_back_its_scene():
    for seed in range(20):
        (scene,) = random_scenes(1, torch.Generator().manual_seed(seed))
        assert scene_of(scene.prompt) == scene
    for prompt, words in (
        ("a red circle on a dark background", "it names no motion, but a clip has one; write one"),
        ("a red blue ring still on a light background", "it names red and blue colour"),
    ):
        with pytest.raises(ValueError, match=words):
            scene_of(prompt)


def test_the_mask_of_a_clip_is_its_object():
    scenes = random_scenes(6, torch.Generator().manual_seed(1))
    clips, objects = render_with_objects(scenes, torch.Generator().manual_seed(2))
    assert torch.equal(clips, render(scenes, torch.Generator().manual_seed(2)))
    colourful = clips.amax(1) - clips.amin(1) > 0.3
    assert bool((colourful == (objects > 0.5)).float().mean() > 0.99)
