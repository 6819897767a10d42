"""Pairs: two videos from the same noise in one batch, row 0 the source, row 1 the target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .plan import WHOLE

Conditioning = list[list[Any]]  # as ComfyUI passes it: [[embedding, extras], …]
Latent = dict[str, Any]  # "samples", and perhaps "batch_index" and "noise_mask"
LENGTHS_KEY = "vdit_prompt_lengths"  # in a pair's extras: its padded prompts' tokens, [2] int64


def pair_prompts(source: Conditioning, target: Conditioning) -> Conditioning:
    """One conditioning whose row 0 is the source prompt and row 1 the target prompt.

    The shorter prompt is padded with zero vectors, as Wan's own text encoder pads; where the model
    attends to text and video together, a transfer hides that padding (see LENGTHS_KEY).
    """
    if len(source) != len(target):
        raise ValueError(
            f"pair prompts: the source has {len(source)} conditionings and the target "
            f"{len(target)}; give both the same number (one each, as from CLIP Text Encode)"
        )
    return [_pair_entry(a, b) for a, b in zip(source, target, strict=True)]


def pair_latent(latent: Latent) -> Latent:
    """Repeat every video, and give both copies the same noise."""
    samples: Tensor = latent["samples"]
    index = latent.get("batch_index", list(range(samples.shape[0])))
    out = latent | {"samples": samples.repeat_interleave(2, 0)}
    out["batch_index"] = [i for i in index for _ in range(2)]
    mask = latent.get("noise_mask")
    if mask is not None and mask.shape[0] == samples.shape[0]:
        out["noise_mask"] = mask.repeat_interleave(2, 0)
    return out


def split_pair(latent: Latent) -> tuple[Latent, Latent]:
    """The sources and the targets of a latent batch of pairs."""
    count = latent["samples"].shape[0]
    if count % 2:
        raise ValueError(
            f"split pair: the latent has a batch of {count}, which is not a batch of pairs; "
            "use the output of a sampler that was given VDiT Pair Latent"
        )
    return _half(latent, 0, count), _half(latent, 1, count)


def _half(latent: Latent, which: int, count: int) -> Latent:
    half = latent | {"samples": latent["samples"][which::2]}
    if "batch_index" in latent:
        half["batch_index"] = latent["batch_index"][which::2]
    mask = latent.get("noise_mask")
    if mask is not None and mask.shape[0] == count:
        half["noise_mask"] = mask[which::2]
    return half


def _pair_entry(source: list[Any], target: list[Any]) -> list[Any]:
    a, b = source[0], target[0]
    if a.shape[-1] != b.shape[-1] or a.shape[0] != 1 or b.shape[0] != 1:
        raise ValueError(
            f"pair prompts: the source is {_shape(a)} and the target {_shape(b)}, but both must be "
            "one prompt of the same width; encode both with the same CLIP"
        )
    length = max(a.shape[1], b.shape[1])
    extras = dict(source[1])
    pooled = [entry[1].get("pooled_output") for entry in (source, target)]
    if all(isinstance(x, Tensor) for x in pooled):
        extras["pooled_output"] = torch.cat(pooled)
    masks = [_mask(entry) for entry in (source, target)]
    words = torch.tensor([max(1, int(mask.sum())) for mask in masks])
    extras[LENGTHS_KEY] = words.where(words < length, WHOLE)
    if any("attention_mask" in entry[1] for entry in (source, target)):
        extras["attention_mask"] = torch.cat([pad(m, (0, length - m.shape[1])) for m in masks])
    return [torch.cat([pad(x, (0, 0, 0, length - x.shape[1])) for x in (a, b)]), extras]


def _mask(entry: list[Any]) -> Tensor:
    """Which tokens of a prompt are words and not padding, [1, L]."""
    whole = torch.ones(entry[0].shape[:2], dtype=torch.int64)
    return entry[1].get("attention_mask", whole)


def _shape(x: Tensor) -> str:
    return f"{x.shape[0]} × {x.shape[1]} tokens of width {x.shape[-1]}"
