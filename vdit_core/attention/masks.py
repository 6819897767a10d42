"""Masks: what a query may not see."""

from __future__ import annotations

import torch
from torch import Tensor


def hiding_text(
    mask: Tensor | None, text: tuple[int, int], shown: Tensor, k: Tensor
) -> Tensor | None:
    """The mask that hides the prompt's later tokens too, broadcasting to [B, H, Lq, Lk].

    text: the prompt's first key and the one after its last. shown: [B, H], how many of them stay.
    mask: four axes or None, bool or additive; a new one is additive, which every backend reads.
    """
    start, stop = text
    shown = shown[:, :1] if bool((shown == shown[:, :1]).all()) else shown
    key = torch.arange(k.shape[2])
    hidden = (key >= start + shown[..., None]) & (key < stop)  # [B, 1 or H, Lk]
    if not bool(hidden.any()):
        return mask
    hidden = hidden[:, :, None].to(k.device)
    if mask is not None and mask.dtype == torch.bool:
        return mask & ~hidden
    lowest = torch.finfo(k.dtype).min
    bias = torch.zeros(hidden.shape, dtype=k.dtype, device=k.device).masked_fill_(hidden, lowest)
    return bias if mask is None else torch.minimum(mask, bias)


def allowed(mask: Tensor) -> Tensor:
    """What a mask lets through, bool of its shape."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def cut(mask: Tensor | None, queries: slice | Tensor, keys: slice | Tensor) -> Tensor | None:
    """The mask of some queries and keys."""
    if mask is None:
        return None
    return (mask[:, :, queries] if mask.shape[2] > 1 else mask)[..., keys]


def prompt_length(k: Tensor, mask: Tensor | None, text: slice, row: int, pads_alike: bool) -> int:
    """How many of a row's text keys come before its padding, as far as one call can tell.

    Padding is what the mask hides from every query and, if pads_alike, a run of equal keys at the
    end: encoders that pad with zeros make those.
    """
    length = text.stop - text.start
    if mask is not None:
        keys = mask[min(row, len(mask) - 1), ..., text]  # [H or 1, Lq or 1, T]
        places = allowed(keys).flatten(0, -2).any(0).nonzero()
        length = int(places.max()) + 1 if len(places) else 0
    if pads_alike and length > 1:
        keys = k[row, :, text][:, :length]
        differs = (keys != keys[:, -1:]).any(-1).any(0).nonzero()
        before = int(differs.max()) + 1 if len(differs) else 0
        if length - before > 1:
            length = before
    return length
