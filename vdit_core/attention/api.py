"""`attend`: carry out a plan by the cheapest exact path."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..plan import AttentionPlan
from .reference import reference_attend
from .tiles import map_tiles

# Ordinary attention, softmax(S / T) V: (q, k, v, mask, T) with [B, H, L, D] → [B, H, Lq, D].
Dense = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]
IMPLEMENTATIONS = ("auto", "dense", "streaming", "reference")


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    *,
    dense: Dense | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    implementation: str = "auto",
) -> Tensor:
    """Attention as the plan wants it.

    q, k, v: [B, H, L, D]. mask: broadcasts to [B, H, Lq, Lk], bool (True = may attend) or additive.
    dense: who does the ordinary attention inside (a host's backend); torch's own when left out.
    implementation: "dense" folds the plan into calls of `dense`, "streaming" tiles over queries in
    float32, "reference" builds the map; "auto" is "reference" for a threshold, else "dense".
    """
    _check(q, k, v, plan, implementation)
    if implementation == "auto":
        implementation = "dense" if plan.threshold is None else "reference"
    if implementation == "reference":
        return reference_attend(q, k, v, plan, mask=mask, scale=scale)
    if implementation == "streaming":
        return _streaming(q, k, v, plan, mask, scale)
    if plan.threshold is not None:
        raise ValueError("implementation: 'dense' has no threshold; use 'reference'")
    return _dense(q, k, v, plan, dense or _torch_dense(scale), mask)


def _dense(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, dense: Dense, mask: Tensor | None
) -> Tensor:
    gate = _per_head(plan.gate, q, 1.0)
    identity = gate * _per_head(plan.map.identity if plan.map else None, q, 0.0)
    uniform = gate * _per_head(plan.map.uniform if plan.map else None, q, 0.0)
    softmax = gate - identity - uniform
    needed = (softmax != 0).any(0).nonzero()[:, 0]  # heads whose softmax is used by any row
    if len(needed) == q.shape[1]:
        out = _softmax_part(q, k, v, plan, dense, mask, needed)
        if not bool((softmax == 1).all()):
            out = out * _spread(softmax, out)
    else:
        out = torch.zeros_like(q)
        if len(needed):
            part = _softmax_part(q, k, v, plan, dense, mask, needed)
            out[:, needed.to(q.device)] = part * _spread(softmax[:, needed], part)
    if bool((identity != 0).any()):
        out = out + _spread(identity, v) * v
    if bool((uniform != 0).any()):
        out = out + _spread(uniform, v) * _mean_value(v, mask)
    return out


def _softmax_part(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    dense: Dense,
    mask: Tensor | None,
    heads: Tensor,
) -> Tensor:
    """A V for the given heads: one dense call, or two where a source counts in part."""
    strength = None if plan.source is None else plan.source.strength[:, heads]
    temperature = None if plan.temperature is None else plan.temperature[:, heads]
    if len(heads) < q.shape[1]:
        index = heads.to(q.device)
        q, k, v = q[:, index], k[:, index], v[:, index]
        mask = mask[:, index] if mask is not None and mask.shape[1] > 1 else mask
    if strength is None or plan.source is None or not bool((strength != 0).any()):
        return _tempered(q, k, v, temperature, dense, mask)
    rows = plan.source.rows
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


def _streaming(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, mask: Tensor | None, scale: float | None
) -> Tensor:
    out = torch.empty_like(q)
    values = v.float()
    for tile in map_tiles(q, k, plan, mask=mask, scale=scale):
        out[tile.row, :, tile.queries] = (tile.weights @ values[tile.row]).to(out.dtype)
    return out if plan.gate is None else out * _spread(plan.gate, out)


def _torch_dense(scale: float | None) -> Dense:
    def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=factor / temperature)

    return dense


def _per_head(values: Tensor | None, q: Tensor, default: float) -> Tensor:
    return torch.full(q.shape[:2], default) if values is None else values.float()


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """[B, H] → [B, H, 1, 1] beside a [B, H, L, D] tensor."""
    return values.to(like)[:, :, None, None]


def _check(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, implementation: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        allowed = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"implementation: got {implementation!r}, allowed are {allowed}")
    if q.ndim != 4 or k.shape != v.shape or q.shape[:2] != k.shape[:2]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"q, k, v must be [B, H, L, D] with equal B and H; got {shapes}")
    if plan.source is not None and plan.source.region != "all":
        raise ValueError(f"region: got {plan.source.region!r}, but only 'all' can be carried out")
    square = plan.map is not None and bool((plan.map.identity != 0).any())
    if square and q.shape[2] != k.shape[2]:
        raise ValueError(
            f"map: the identity needs as many keys as queries; got {q.shape[2]} queries "
            f"and {k.shape[2]} keys (self-attention has both equal, cross-attention does not)"
        )
