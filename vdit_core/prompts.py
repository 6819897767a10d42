"""Prompts: conditionings with fewer words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .pairs import Conditioning


def first_tokens(conditioning: Conditioning, count: int) -> Conditioning:
    """The same prompts with the features of all tokens after the first `count` removed.

    They become padding as their encoder makes it: hidden where it gives a mask (Mochi), zero where
    it pads with zeros (Wan), gone otherwise. (2504.10317 §3.2)
    """
    if count < 1:
        raise ValueError(f"tokens: got {count}, allowed is 1 or more")
    return [_entry(text, extras, count) for text, extras in conditioning]


def _entry(text: Tensor, extras: dict[str, Any], count: int) -> list[Any]:
    """text: [B, L, C]."""
    kept = torch.arange(text.shape[1], device=text.device) < count
    mask = extras.get("attention_mask")
    if mask is not None:
        return [text * kept[:, None], extras | {"attention_mask": mask * kept.to(mask)}]
    if not bool(text[:, -1].any()):
        return [text * kept[:, None], dict(extras)]
    return [text[:, :count], dict(extras)]
