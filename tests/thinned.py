"""Dense float64 maps without their smallest weights, or with some blocks only."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from vdit_attention.tests.oracle import Case, Wish
from vdit_attention.vdit_core.plan import Threshold


def thinned(weights: Tensor, allowed: Tensor, rate: float, renormalize: bool) -> Tensor:
    """One dense map [Lq, Lk] without what lies strictly below its quantile."""
    flat = sorted(weights[allowed].tolist())
    threshold = flat[min(int(rate * len(flat)), len(flat) - 1)] if rate else 0.0
    kept = weights * (weights >= threshold)
    if not renormalize:
        return kept
    total = kept.sum(-1, keepdim=True)
    return kept / total.where(total > 0, 1)


def in_blocks(maps: Tensor, kept: Tensor, size: int) -> Tensor:
    """Maps [.., Lq, Lk] with the kept blocks [.., nq, nk] only, renormalised."""
    whole = kept.repeat_interleave(size, -2).repeat_interleave(size, -1)
    inside = maps * whole[..., : maps.shape[-2], : maps.shape[-1]]
    total = inside.sum(-1, keepdim=True)
    return inside / total.where(total > 0, 1)


def thinned_video(case: Case, threshold: Threshold, inner: Wish) -> Tensor:
    """M of a call whose video, by `inner`, is thinned among itself, [B, H, Lq, Lk]."""
    span, shape = case.wish.span, case.q.shape[:2]
    strength = inner.strength.double()[:, :, None, None]
    plain = replace(
        inner, identity=torch.zeros(shape), uniform=torch.zeros(shape), gate=torch.ones(shape)
    )

    def part(follow: float) -> tuple[Tensor, Tensor]:
        wish = replace(plain, strength=torch.full(shape, follow))
        maps = replace(case, wish=replace(case.wish, video=wish)).true_maps().nan_to_num(0)
        received = maps[..., span, span].sum(-1, keepdim=True)
        for b, h in torch.cartesian_prod(*(torch.arange(n) for n in shape)).tolist():
            own = maps[b, h, span, span] / received[b, h]
            rate = float(threshold.rate[b, h])
            allowed = case.allowed(b, h)[span, span]
            drop = thinned(own, allowed, rate, threshold.renormalize)
            maps[b, h, span, span] = received[b, h] * drop
        return maps, received

    own, source = part(0.0), part(1.0)
    maps, received = ((1 - strength) * a + strength * b for a, b in zip(own, source, strict=True))
    i, u, gate = (x.double()[:, :, None, None] for x in (inner.identity, inner.uniform, inner.gate))
    tokens = span.stop - span.start
    other = i * torch.eye(tokens) + u * torch.full((tokens, tokens), 1 / tokens)
    mixed = (1 - i - u) * maps[..., span, span] + received * other
    maps[..., span, span] = gate * mixed
    return maps


def video_in_blocks(case: Case, kept: Tensor, size: int) -> Tensor:
    """M of a call in which all but some blocks of the video's map are as if masked."""
    maps, span = case.true_maps().nan_to_num(0), case.wish.span
    whole = kept.repeat_interleave(size, -2).repeat_interleave(size, -1)
    tokens = span.stop - span.start
    maps[..., span, span] *= whole[..., :tokens, :tokens]
    return maps / maps.sum(-1, keepdim=True)
