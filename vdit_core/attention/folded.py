"""Fold a plan into ordinary attention calls: the cheapest exact path there is."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..plan import AttentionPlan
from .dense import Dense, mean_value, taken, tempered
from .region import Inside, regional_attend
from .thin import Thinning, thin


def folded_attend(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, inside: Inside, mask: Tensor | None
) -> Tensor:
    """gate · M V by calls of the ordinary attention, V and mean(V). [B, H, Lq, D]"""
    gate = _per_head(plan.gate, q, 1.0)
    identity = gate * _per_head(plan.map.identity if plan.map else None, q, 0.0)
    uniform = gate * _per_head(plan.map.uniform if plan.map else None, q, 0.0)
    softmax = gate - identity - uniform
    needed = (softmax != 0).any(0).nonzero()[:, 0]  # heads whose softmax is used by any row
    if len(needed) == q.shape[1]:
        out = _softmax_part(q, k, v, plan, inside, mask)
        if not bool((softmax == 1).all()):
            out = out * _spread(softmax, out)
    else:
        out = torch.zeros_like(q)
        if len(needed):
            part = _of_heads(q, k, v, plan, inside, mask, needed)
            out[:, needed.to(q.device)] = part * _spread(softmax[:, needed], part)
    if bool((identity != 0).any()):
        out = out + _spread(identity, v) * v
    if bool((uniform != 0).any()):
        out = out + _spread(uniform, v) * mean_value(v, mask)
    return out


def _of_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    inside: Inside,
    mask: Tensor | None,
    heads: Tensor,
) -> Tensor:
    """A V of some heads only, [B, n, Lq, D]."""

    def report(some: Thinning) -> None:
        inside.report(some.among(heads, q.shape[1]))

    index = heads.to(q.device)
    mask = mask[:, index] if mask is not None and mask.shape[1] > 1 else mask
    parts = q[:, index], k[:, index], v[:, index]
    return _softmax_part(*parts, plan.of_heads(heads), replace(inside, report=report), mask)


def _softmax_part(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, inside: Inside, mask: Tensor | None
) -> Tensor:
    """A V: ordinary attention, and over it the heads whose weights have a threshold."""
    if plan.video is not None:
        return regional_attend(q, k, v, plan, inside, mask)
    if plan.threshold is None:
        return _attention(q, k, v, plan, inside.dense, mask)
    if bool((plan.threshold.rate > 0).all()):
        out = v.new_empty(*q.shape[:3], v.shape[3])
    else:
        out = _attention(q, k, v, plan, inside.dense, mask).clone()
    inside.report(thin(out, q, k, v, plan, mask, inside.scale))
    return out


def _attention(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, dense: Dense, mask: Tensor | None
) -> Tensor:
    """Softmax attention: one dense call, or two where a source counts in part."""
    temperature = plan.temperature
    if plan.source is None or not bool((plan.source.strength != 0).any()):
        return tempered(q, k, v, temperature, dense, mask)
    rows, strength = plan.source.rows, plan.source.strength
    if not bool(((strength == 0) | (strength == 1)).all()):
        return _blend(q, k, v, rows, strength, temperature, dense, mask)
    q, k, mask = taken((q, k, mask), (q, k, mask), plan.source)
    return tempered(q, k, v, temperature, dense, mask)


def _blend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    strength: Tensor,
    temperature: Tensor | None,
    dense: Dense,
    mask: Tensor | None,
) -> Tensor:
    """(1 − s) · A V + s · A_source V, the second only for rows that want it."""
    out = tempered(q, k, v, temperature, dense, mask).clone()
    wanting = (strength != 0).any(1).nonzero()[:, 0]
    index, sources = wanting.to(q.device), rows[wanting].to(q.device)
    own = None if temperature is None else temperature[wanting]
    source_mask = mask[sources] if mask is not None and mask.shape[0] > 1 else mask
    other = tempered(q[sources], k[sources], v[index], own, dense, source_mask)
    out[index] = torch.lerp(out[index], other, _spread(strength[wanting], out).expand_as(other))
    return out


def _per_head(values: Tensor | None, q: Tensor, default: float) -> Tensor:
    return torch.full(q.shape[:2], default) if values is None else values.float()


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """[B, H] → [B, H, 1, 1] beside a [B, H, L, D] tensor."""
    return values.to(like)[:, :, None, None]
