"""The specification: dense maps, one head at a time. Clear before fast, any dtype, for small sizes.

The only file that may build an Lq × Lk tensor. Tests run it in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan import AttentionPlan


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
    bias = _bias(mask, (batch, heads, queries, keys), q)
    maps = q.new_empty(batch, heads, queries, keys)
    for b in range(batch):
        for h in range(heads):
            maps[b, h] = _one_map(q, k, bias, plan, scale, b, h)
    return maps


def _one_map(
    q: Tensor, k: Tensor, bias: Tensor, plan: AttentionPlan, scale: float | None, b: int, h: int
) -> Tensor:
    def softmax_of(row: int) -> Tensor:
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        temperature = 1.0 if plan.temperature is None else plan.temperature[b, h].item()
        scores = factor * q[row, h] @ k[row, h].T / temperature + bias[row, h]
        weights = scores.softmax(-1)
        if plan.threshold is None:
            return weights
        rate = plan.threshold.rate[b, h].item()
        return _drop_smallest(weights, bias[row, h], rate, plan.threshold.renormalize)

    weights = softmax_of(b)
    if plan.source is not None:
        if plan.source.region != "all":
            raise ValueError("region: the reference handles 'all' only")
        strength = plan.source.strength[b, h].item()
        if strength:
            weights = (1 - strength) * weights + strength * softmax_of(int(plan.source.rows[b]))
    if plan.map is None:
        return weights
    to_identity, to_uniform = plan.map.identity[b, h].item(), plan.map.uniform[b, h].item()
    mixed = (1 - to_identity - to_uniform) * weights
    if to_identity:
        mixed = mixed + to_identity * torch.eye(*weights.shape, dtype=q.dtype, device=q.device)
    if to_uniform:
        allowed = (bias[b, h] > torch.finfo(q.dtype).min / 2).to(q.dtype)
        mixed = mixed + to_uniform * allowed / allowed.sum(-1, keepdim=True)
    return mixed


def _drop_smallest(weights: Tensor, bias: Tensor, rate: float, renormalize: bool) -> Tensor:
    """Zero what lies strictly below the head's `rate` quantile, counted over allowed entries."""
    allowed = weights[bias > torch.finfo(weights.dtype).min / 2]
    threshold = allowed.sort().values[min(int(rate * allowed.numel()), allowed.numel() - 1)]
    kept = torch.where(weights < threshold, 0.0, weights)
    if not renormalize:
        return kept
    total = kept.sum(-1, keepdim=True)
    return torch.where(total > 0, kept / total, 0.0)


def _bias(mask: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """The mask as numbers added to the scores, expanded to `shape`."""
    if mask is None:
        return like.new_zeros(()).expand(shape)
    if mask.dtype == torch.bool:
        blocked = torch.full_like(mask, float("-inf"), dtype=like.dtype)
        mask = torch.where(mask, 0.0, blocked)
    return mask.to(like).expand(shape)
