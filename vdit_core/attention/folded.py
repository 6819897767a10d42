"""Fold a plan into ordinary attention calls: the cheapest exact path there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..plan import AttentionPlan
from .thin import Thinning, thin

# Ordinary attention, softmax(S / T) V: (q, k, v, mask, T) with [B, H, L, D] → [B, H, Lq, D].
Dense = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]


@dataclass(frozen=True)
class Inside:
    """What is called inside: the ordinary attention, and who hears of dropped weights."""

    dense: Dense
    scale: float | None
    report: Callable[[Thinning], None]


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
        out = out + _spread(uniform, v) * _mean_value(v, mask)
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
        return _tempered(q, k, v, temperature, dense, mask)
    rows, strength = plan.source.rows, plan.source.strength
    if not bool(((strength == 0) | (strength == 1)).all()):
        return _blend(q, k, v, rows, strength, temperature, dense, mask)
    taken = strength == 1
    index, where = rows.to(q.device), taken.to(q.device)[:, :, None, None]
    q, k = (torch.where(where, x[index], x) for x in (q, k))
    return _tempered(q, k, v, temperature, dense, _taken_mask(mask, rows, taken))


def _tempered(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    temperature: Tensor | None,
    dense: Dense,
    mask: Tensor | None,
) -> Tensor:
    """softmax(S / T) V: one dense call for each block of rows and heads that share a temperature.

    T goes into the scale: dividing Q by it would round Q once more in half precision.
    """
    if temperature is None:
        return dense(q, k, v, mask, 1.0)
    values: list[float] = temperature.unique().tolist()
    if len(values) == 1:
        return dense(q, k, v, mask, values[0])
    out = torch.empty_like(q)
    for value in values:
        at = temperature == value
        for pattern in at[at.any(1)].unique(dim=0):
            rows = (at == pattern).all(1).nonzero()[:, 0].to(q.device)
            heads = pattern.nonzero()[:, 0].to(q.device)
            block = rows[:, None], heads
            out[block] = dense(q[block], k[block], v[block], _picked(mask, rows, heads), value)
    return out


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
    out = _tempered(q, k, v, temperature, dense, mask).clone()
    wanting = (strength != 0).any(1).nonzero()[:, 0]
    index, sources = wanting.to(q.device), rows[wanting].to(q.device)
    own = None if temperature is None else temperature[wanting]
    source_mask = mask[sources] if mask is not None and mask.shape[0] > 1 else mask
    other = _tempered(q[sources], k[sources], v[index], own, dense, source_mask)
    out[index] = torch.lerp(out[index], other, _spread(strength[wanting], out).expand_as(other))
    return out


def _picked(mask: Tensor | None, rows: Tensor, heads: Tensor) -> Tensor | None:
    """The mask of some rows and heads."""
    if mask is None:
        return None
    mask = mask[rows] if mask.shape[0] > 1 else mask
    return mask[:, heads] if mask.shape[1] > 1 else mask


def _taken_mask(mask: Tensor | None, rows: Tensor, taken: Tensor) -> Tensor | None:
    """The scores' mask goes with the scores."""
    if mask is None or mask.shape[0] == 1:
        return mask
    return torch.where(taken.to(mask.device)[:, :, None, None], mask[rows.to(mask.device)], mask)


def _mean_value(v: Tensor, mask: Tensor | None) -> Tensor:
    """U V: the mean value over the keys a query may attend to, [B, H, Lq or 1, D]."""
    if mask is None:
        return v.float().mean(2, keepdim=True).to(v.dtype)
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    tiles = range(0, allowed.shape[2], 256)  # a mask may differ from query to query
    return torch.cat([_masked_mean(v, allowed[:, :, s : s + 256]) for s in tiles], 2)


def _masked_mean(v: Tensor, allowed: Tensor) -> Tensor:
    weight = allowed.float()
    return (weight / weight.sum(-1, keepdim=True) @ v.float()).to(v.dtype)


def _per_head(values: Tensor | None, q: Tensor, default: float) -> Tensor:
    return torch.full(q.shape[:2], default) if values is None else values.float()


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """[B, H] → [B, H, 1, 1] beside a [B, H, L, D] tensor."""
    return values.to(like)[:, :, None, None]
