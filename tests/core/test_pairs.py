"""Pairs: row 0 the source, row 1 the target, the same noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from vdit_attention.vdit_core.pairs import pair_latent, pair_prompts, split_pair


def prompt(tokens: int, value: float, width: int = 8, **extras: Any) -> list[list[Any]]:
    return [[torch.full((1, tokens, width), value), extras]]


def test_the_source_prompt_is_row_0_and_the_target_row_1() -> None:
    ((embedding, _),) = pair_prompts(prompt(3, 1.0), prompt(3, 2.0))
    assert embedding.shape == (2, 3, 8)
    assert embedding[0].unique().tolist() == [1]
    assert embedding[1].unique().tolist() == [2]


@pytest.mark.parametrize(("a", "b"), [(3, 5), (5, 3)])
def test_the_shorter_prompt_is_padded_with_zeros(a: int, b: int) -> None:
    ((embedding, _),) = pair_prompts(prompt(a, 1.0), prompt(b, 1.0))
    assert embedding.sum((1, 2)).tolist() == [8 * a, 8 * b]
    assert embedding[:, :3].unique().tolist() == [1]


def test_masks_and_pooled_vectors_are_paired_too() -> None:
    a = prompt(3, 1.0, pooled_output=torch.ones(1, 4), attention_mask=torch.ones(1, 3))
    b = prompt(5, 1.0, pooled_output=torch.zeros(1, 4), attention_mask=torch.ones(1, 5))
    ((_, extras),) = pair_prompts(a, b)
    assert extras["pooled_output"].tolist() == [[1] * 4, [0] * 4]
    assert extras["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]


def test_the_prompts_that_were_given_stay_as_they_are() -> None:
    a, b = prompt(3, 1.0, note=1), prompt(5, 2.0)
    pair_prompts(a, b)[0][1]["note"] = 2
    assert a[0][1] == {"note": 1}
    assert a[0][0].shape == (1, 3, 8)


def test_prompts_of_different_width_are_an_error() -> None:
    with pytest.raises(ValueError) as error:
        pair_prompts(prompt(3, 1.0, 8), prompt(5, 1.0, 16))
    assert str(error.value) == (
        "pair prompts: the source is 1 × 3 tokens of width 8 and the target 1 × 5 tokens of width "
        "16, but both must be one prompt of the same width; encode both with the same CLIP"
    )


def test_a_pair_is_no_prompt_of_another_pair() -> None:
    pair = pair_prompts(prompt(3, 1.0), prompt(3, 2.0))
    with pytest.raises(ValueError, match="must be one prompt of the same width"):
        pair_prompts(pair, prompt(3, 1.0))


def test_different_numbers_of_conditionings_are_an_error() -> None:
    two = [*prompt(3, 1.0), *prompt(3, 1.0)]
    with pytest.raises(ValueError, match=r"the source has 2 conditionings and the target 1; give"):
        pair_prompts(two, prompt(3, 1.0))


def test_every_video_appears_twice_with_the_same_noise_index() -> None:
    samples = torch.arange(2.0)[:, None].expand(2, 3)
    paired = pair_latent({"samples": samples, "noise_mask": torch.arange(2.0)})
    assert paired["samples"][:, 0].tolist() == [0, 0, 1, 1]
    assert paired["batch_index"] == [0, 0, 1, 1]
    assert paired["noise_mask"].tolist() == [0, 0, 1, 1]


def test_a_batch_index_that_is_there_is_kept() -> None:
    assert pair_latent({"samples": torch.zeros(2, 3), "batch_index": [4, 7]})["batch_index"] == [
        *(4, 4),
        *(7, 7),
    ]


def test_a_mask_for_all_is_left_alone() -> None:
    mask = torch.ones(1, 3)
    assert pair_latent({"samples": torch.zeros(2, 3), "noise_mask": mask})["noise_mask"] is mask


def test_splitting_undoes_pairing() -> None:
    latent = {"samples": torch.rand(2, 3), "batch_index": [4, 7], "noise_mask": torch.rand(2, 1)}
    for half in split_pair(pair_latent(latent)):
        assert torch.equal(half["samples"], latent["samples"])
        assert half["batch_index"] == latent["batch_index"]
        assert torch.equal(half["noise_mask"], latent["noise_mask"])


def test_splitting_gives_sources_first() -> None:
    source, edited = split_pair({"samples": torch.arange(4.0)})
    assert source["samples"].tolist() == [0, 2]
    assert edited["samples"].tolist() == [1, 3]


def test_splitting_what_is_no_pair_is_an_error() -> None:
    with pytest.raises(ValueError, match="has a batch of 3, which is not a batch of pairs; use"):
        split_pair({"samples": torch.zeros(3, 1)})
