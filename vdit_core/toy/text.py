"""The toy world's words: a closed vocabulary and one fixed vector per word."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from .clips import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene

WORDS = ("a", "on", "background", *COLOURS, *SHAPES, *BACKGROUNDS, *MOTIONS)
LENGTH = 16  # tokens per prompt, padded with zero vectors
WIDTH = 64
SEED = 2504  # of the word vectors, which are drawn once and never trained


def word_ids(prompt: str, known: Sequence[str] = WORDS) -> list[int]:
    """Index of each word of `prompt` in `known`; commas and full stops are ignored."""
    words = re.findall(r"[^\s,.]+", prompt.lower())
    if unknown := [w for w in words if w not in known]:
        raise ValueError(
            f"prompt: the toy world does not know {', '.join(map(repr, unknown))}; "
            f"its words are {', '.join(known)}"
        )
    return [known.index(w) for w in words]


def scene_of(prompt: str) -> Scene:
    """What a prompt says in full. Raises ValueError unless it has one word of each kind."""
    words = [WORDS[n] for n in word_ids(prompt)]
    kinds = {"colour": COLOURS, "shape": SHAPES, "background": BACKGROUNDS, "motion": MOTIONS}
    named: dict[str, int] = {}
    for kind, known in kinds.items():
        found = [word for word in words if word in known]
        if len(found) != 1:
            raise ValueError(
                f"prompt: it names {' and '.join(found) or 'no'} {kind}, but a clip has one; write "
                f"one of {', '.join(known)}"
            )
        named[kind] = list(known).index(found[0])
    return Scene(**named)


def check_length(words: int) -> None:
    """Refuse a prompt of more words than the toy world reads."""
    if words > LENGTH:
        raise ValueError(
            f"prompt: {words} words, but the toy world reads at most {LENGTH}; "
            "leave out words such as 'a' and 'on'"
        )


def word_vectors() -> Tensor:
    """One vector per word, [len(WORDS), WIDTH], standard normal."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(len(WORDS), WIDTH, generator=generator)


def embed(prompts: list[str], vectors: Tensor) -> Tensor:
    """Embed prompts as [B, LENGTH, WIDTH]; positions after the last word are zero."""
    out = vectors.new_zeros(len(prompts), LENGTH, vectors.shape[1])
    for row, prompt in enumerate(prompts):
        ids = word_ids(prompt)
        check_length(len(ids))
        out[row, : len(ids)] = vectors[ids]
    return out
