"""The toy world's text encoder as a ComfyUI CLIP: one fixed vector per word, no layers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.utils
import torch
from comfy.supported_models_base import ClipTarget
from torch import Tensor, nn

from ..toy.text import LENGTH, check_length, word_ids

KEY = "toy"  # of the token lists, as "l" or "umt5xxl" in ComfyUI's own encoders
WEIGHT = "words.weight"  # name of the vectors in the file, [words, width]

Tokens = list[list[tuple[int, float]]]  # per prompt, per word: (index, weight)
Numbered = list[list[tuple[int, float, int]]]  # the same, and the word's number, from 1


class ToyTokenizer:
    """Split a prompt into words of a closed vocabulary, weighted as in ComfyUI's syntax.

    Unknown words and prompts that are too long raise here, so **CLIP Text Encode** stops before any
    sampling starts.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **_: object
    ) -> dict[str, Tokens] | dict[str, Numbered]:
        """`(red:1.3)` gives red the weight 1.3; an escaped bracket is an unknown word."""
        parts = comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0)
        tokens = [
            (index, weight)
            for part, weight in parts
            for index in word_ids(comfy.sd1_clip.unescape_important(part), self.words)
        ]
        check_length(len(tokens))
        if return_word_ids:
            return {KEY: [[(*token, number) for number, token in enumerate(tokens, 1)]]}
        return {KEY: [tokens]}

    def untokenize(self, tokens: list[tuple[int, float]]) -> list[tuple[tuple[int, float], str]]:
        return [(t, self.words[t[0]]) for t in tokens]

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class ToyTextModel(nn.Module):
    """Word vectors. There are no layers, so **CLIP Set Last Layer** changes nothing."""

    dtypes = frozenset({torch.float32})
    disable_offload = True

    def __init__(self, words: int, width: int, masked: bool, device: Any = None) -> None:
        super().__init__()
        self.masked = masked
        self.words = nn.Embedding(words, width, device=device, dtype=torch.float32)

    def encode_token_weights(
        self, tokens: dict[str, Tokens]
    ) -> tuple[Tensor, None] | tuple[Tensor, None, dict[str, Tensor]]:
        """Embed as [B, 16, width]; a word's vector is multiplied by its weight.

        The empty prompt is all zeros, so this is ComfyUI's usual weighting (away from the empty
        prompt). There is no pooled vector. If `masked`, a mask [B, 16] comes with it: 1 on words, 0
        on padding.
        """
        out = torch.zeros(len(tokens[KEY]), LENGTH, self.words.embedding_dim)
        mask = torch.zeros(len(tokens[KEY]), LENGTH, dtype=torch.long)
        for row, prompt in enumerate(tokens[KEY]):
            for place, (index, weight, *_) in enumerate(prompt):
                out[row, place] = self.words.weight[index].detach() * weight
                mask[row, place] = 1
        device = comfy.model_management.intermediate_device()
        if self.masked:
            return out.to(device), None, {"attention_mask": mask.to(device)}
        return out.to(device), None

    def set_clip_options(self, options: dict[str, object]) -> None:
        """Nothing to set: no layers, no projection."""

    def reset_clip_options(self) -> None:
        """Nothing to reset."""

    def load_sd(self, weights: dict[str, Tensor]) -> object:
        return self.load_state_dict(weights, strict=False)


def load_toy_clip(path: Path, masked: bool = False) -> comfy.sd.CLIP:
    """A CLIP from a file with the vectors `words.weight` and the words in its metadata.

    masked: whether conditionings say which tokens are padding, as Mochi's do.
    """
    weights, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    metadata = metadata or {}
    if WEIGHT not in weights or "words" not in metadata:
        raise ValueError(f"{path.name}: no toy text encoder; it lacks '{WEIGHT}' or the word list")
    words: list[str] = json.loads(metadata["words"])
    count, width = weights[WEIGHT].shape

    def model(**options: Any) -> ToyTextModel:
        return ToyTextModel(count, width, masked, device=options["device"])

    def tokenizer(**_: object) -> ToyTokenizer:
        return ToyTokenizer(words)

    clip = comfy.sd.CLIP(ClipTarget(tokenizer, model), parameters=count * width)
    clip.load_sd(weights)
    return clip
