"""The specification: dense maps, one head at a time. Clear before fast, any dtype, for small sizes.

Only this file and reference_measures.py may hold an Lq × Lk tensor. Tests run them in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan import AttentionPlan, Blocks


def reference_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """out = gate · M V. q, k, v: [B, H, L, D], all in one dtype → [B, H, Lq, D]."""
    out = reference_maps(q, k, plan, mask=mask, scale=scale) @ v
    return out if plan.gate is None else out * plan.gate.to(out)[:, :, None, None]


def reference_maps(
    q: Tensor,
    k: Tensor,
    plan: AttentionPlan,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """The map M of every head, [B, H, Lq, Lk], rows sum to 1 unless weights were dropped."""
    batch, heads, queries, _ = q.shape
    keys = k.shape[2]
    bias = as_numbers(mask, (batch, heads, queries, keys), q)
    maps = q.new_empty(batch, heads, queries, keys)
    for b in range(batch):
        for h in range(heads):
            maps[b, h] = _one_map(q, k, bias, plan, scale, b, h)
    return maps


def reference_scores(
    q: Tensor,
    k: Tensor,
    plan: AttentionPlan,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """S / T with the mask added, [B, H, Lq, Lk]; the source's where a head follows it in full."""
    bias = as_numbers(mask, (*q.shape[:3], k.shape[2]), q)
    scores = q.new_empty(bias.shape)

    def of(some: AttentionPlan, b: int, h: int) -> Tensor:
        follows = some.source is not None and some.source.strength[b, h].item() == 1
        row = int(some.source.rows[b]) if some.source is not None and follows else b
        return _scores(q, k, bias, some, scale, row, b, h)

    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            scores[b, h] = of(plan, b, h)
            if plan.video is not None and (video := plan.span) is not None:
                scores[b, h, video, video] = of(plan.alone, b, h)[video, video]
    return scores


def _scores(
    q: Tensor,
    k: Tensor,
    bias: Tensor,
    plan: AttentionPlan,
    scale: float | None,
    row: int,
    b: int,
    h: int,
) -> Tensor:
    """Scores of `row`, at the temperature of row b."""
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    temperature = 1.0 if plan.temperature is None else plan.temperature[b, h].item()
    return factor * q[row, h] @ k[row, h].T / temperature + bias[row, h]


def _one_map(
    q: Tensor, k: Tensor, bias: Tensor, plan: AttentionPlan, scale: float | None, b: int, h: int
) -> Tensor:
    def softmax_of(row: int) -> Tensor:
        scores = _scores(q, k, bias, plan, scale, row, b, h)
        return _thinned(scores, bias[row, h], plan, b, h)[0]

    if plan.video is not None:
        weights = _with_video(q, k, bias, plan, scale, b, h)
    else:
        weights = sum(s * softmax_of(row) for s, row in _shares(plan, b, h))
    assert isinstance(weights, Tensor)
    return _mixed(weights, 1.0, plan, bias[b, h], b, h)


def _with_video(
    q: Tensor, k: Tensor, bias: Tensor, plan: AttentionPlan, scale: float | None, b: int, h: int
) -> Tensor:
    """A, in whose rows of video queries the video attends to itself by a plan of its own.

    Such a row is w · (that plan's map) + (1 − w) · (softmax over the other keys), with w the share
    of the mass on video keys: of the sums of exp(score), before weights are dropped.
    """
    assert plan.video is not None and plan.span is not None
    video, alone = plan.span, plan.alone
    _, row = _shares(plan, b, h)[-1]  # a source of all tokens counts in full or not at all
    scores = _scores(q, k, bias, plan, scale, row, b, h)
    maps = scores.softmax(-1).nan_to_num(0)
    others = scores[video].clone()
    others[:, video] = float("-inf")
    of_others, sum_of_others = others.softmax(-1).nan_to_num(0), others.logsumexp(-1, keepdim=True)
    maps[video], mass = 0, 0
    for share, row in _shares(alone, b, h):
        inner = _scores(q, k, bias, alone, scale, row, b, h)[video, video]
        weights, seen = _thinned(inner, bias[row, h][video, video], alone, b, h)
        w = (seen.logsumexp(-1, keepdim=True) - sum_of_others).sigmoid().nan_to_num(0)
        maps[video] += share * (1 - w) * of_others
        maps[video, video] += share * w * weights
        mass = mass + share * w
    block = _mixed(maps[video, video], mass, alone, bias[b, h][video, video], b, h)
    maps[video, video] = block if alone.gate is None else alone.gate[b, h].item() * block
    return maps


def _shares(plan: AttentionPlan, b: int, h: int) -> list[tuple[float, int]]:
    """With which share the scores of which batch rows count."""
    strength = 0.0 if plan.source is None else plan.source.strength[b, h].item()
    if plan.source is None or not strength:
        return [(1.0, b)]
    return [(1 - strength, b), (strength, int(plan.source.rows[b]))]


def _thinned(
    scores: Tensor, bias: Tensor, plan: AttentionPlan, b: int, h: int
) -> tuple[Tensor, Tensor]:
    """softmax(threshold(S / T)), and the scores that are seen: all but those of dropped blocks."""
    if plan.threshold is None or not plan.threshold.rate[b, h].item():
        return scores.softmax(-1).nan_to_num(0), scores
    if plan.threshold.blocks is not None:
        scores = _in_blocks(scores, plan.threshold.blocks, b, h)
        return scores.softmax(-1).nan_to_num(0), scores
    weights = scores.softmax(-1).nan_to_num(0)
    threshold = _threshold(weights[torch.isfinite(bias)], plan, b, h)
    return _drop_smallest(weights, threshold, plan.threshold.renormalize), scores


def _mixed(
    weights: Tensor, mass: Tensor | float, plan: AttentionPlan, bias: Tensor, b: int, h: int
) -> Tensor:
    """(1 − w_I − w_U) · A + w_I · I + w_U · U, both maps of this mass."""
    if plan.map is None:
        return weights
    to_identity, to_uniform = plan.map.identity[b, h].item(), plan.map.uniform[b, h].item()
    mixed = (1 - to_identity - to_uniform) * weights
    if to_identity:
        mixed = mixed + to_identity * mass * torch.eye(*weights.shape).to(weights)
    if to_uniform:
        allowed = torch.isfinite(bias).to(weights)
        uniform = allowed / allowed.sum(-1, keepdim=True).clamp_min(1)
        mixed = mixed + to_uniform * mass * uniform
    return mixed


def _in_blocks(scores: Tensor, blocks: Blocks, b: int, h: int) -> Tensor:
    if blocks.kept is None:
        raise ValueError("blocks: the reference takes blocks that were chosen; give `kept`")
    kept = blocks.kept[b, h].to(scores.device)
    kept = kept.repeat_interleave(blocks.size, 0).repeat_interleave(blocks.size, 1)
    return scores.masked_fill(~kept[: scores.shape[0], : scores.shape[1]], float("-inf"))


def _threshold(allowed: Tensor, plan: AttentionPlan, b: int, h: int) -> float:
    """The weight below which a head's weights are dropped: as given, or the quantile."""
    assert plan.threshold is not None
    if plan.threshold.weights is not None:
        return plan.threshold.weights[b, h].item()
    place = min(int(plan.threshold.rate[b, h].item() * allowed.numel()), allowed.numel() - 1)
    return allowed.sort().values[place].item() if allowed.numel() else 0.0


def _drop_smallest(weights: Tensor, threshold: float, renormalize: bool) -> Tensor:
    """Zero what lies strictly below the threshold; a row may lose everything."""
    kept = torch.where(weights < threshold, 0.0, weights)
    if not renormalize:
        return kept
    total = kept.sum(-1, keepdim=True)
    return torch.where(total > 0, kept / total, 0.0)


def as_numbers(mask: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """The mask as numbers added to the scores, −inf where forbidden, expanded to `shape`."""
    if mask is None:
        return like.new_zeros(()).expand(shape)
    blocked = ~mask if mask.dtype == torch.bool else mask <= torch.finfo(mask.dtype).min / 2
    zero = torch.zeros_like(mask, dtype=like.dtype) if mask.dtype == torch.bool else mask.to(like)
    return zero.masked_fill(blocked, float("-inf")).expand(shape)
