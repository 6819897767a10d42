"""`attend`: carry out a plan by the cheapest exact path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..plan import AttentionPlan, Blend
from .checks import check_blend, check_finite, check_mask, check_operands, check_region, grouped
from .dense import Dense
from .folded import folded_attend
from .reference import reference_attend
from .region import Inside
from .thin import Thinning, thinned_group
from .tiles import heads_at_once

IMPLEMENTATIONS = ("auto", "dense", "streaming", "reference", "triton")


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
    report: Callable[[Thinning], None] = lambda _: None,
) -> Tensor:
    """Attention as the plan wants it.

    q, k, v: [B, H, L, D]; k and v may have fewer heads, each serving a group. mask: broadcasts to
    [B, H, Lq, Lk], bool (True = may attend) or additive.
    dense: who does the ordinary attention inside (a host's backend); torch's own when left out.
    implementation: "dense" folds the plan into calls of `dense` and thins the heads whose weights
    have a threshold tile by tile, "streaming" tiles over queries in float32, "reference" builds the
    map, "triton" runs its own kernels on a GPU; "auto" is "dense". report: with "dense" and
    "triton", told what a threshold dropped.
    """
    if plan.blend is not None:
        check_blend(plan.blend, q)
        own = replace(plan, blend=None)
        every = attend(
            *(q, k, v, own),
            dense=dense,
            mask=mask,
            scale=scale,
            implementation=implementation,
            report=report,
        )
        return _blended(every, plan.blend)
    k, v = grouped(k, q), grouped(v, q)
    _check(q, k, v, plan, implementation)
    check_mask(mask, q, k)
    if plan.thinning is not None:
        check_finite(q=q, k=k, v=v)
    if implementation == "reference":
        return reference_attend(q, k, v, plan, mask=mask, scale=scale)
    if implementation == "streaming":
        return _streaming(q, k, v, plan, mask, scale)
    if implementation == "triton":
        from .triton_attend import triton_attend

        return triton_attend(q, k, v, plan, mask=mask, scale=scale, report=report)
    inside = Inside(dense or _torch_dense(scale), scale, report)
    return folded_attend(q, k, v, plan, inside, mask)


def _blended(out: Tensor, blend: Blend) -> Tensor:
    """m · out + (1 − m) · out of the row that is followed, [B, H, Lq, D]."""
    own, mixed = blend.own.to(out)[:, None], out.clone()
    for row in blend.heads.any(1).nonzero()[:, 0].tolist():
        heads = blend.heads[row].nonzero()[:, 0].to(out.device)
        mixed[row, heads] = torch.lerp(out[int(blend.rows[row]), heads], out[row, heads], own)
    return mixed


def _streaming(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, mask: Tensor | None, scale: float | None
) -> Tensor:
    out = v.new_empty(*q.shape[:3], v.shape[3])
    every = torch.arange(q.shape[1]).split(heads_at_once(q.device, q.shape[2], k.shape[2]))
    for row in range(q.shape[0]):
        for heads in every:
            group, index = thinned_group(q, k, plan, row, heads, mask, scale), heads.to(q.device)
            values = v[row, index].to(group.dtype)
            for tile in group.tiles():
                part = tile.weights @ values / tile.total[..., None]
                out[row, index[:, None], tile.queries] = part.to(out.dtype)
    return out if plan.gate is None else out * plan.gate.to(out)[:, :, None, None]


def _torch_dense(scale: float | None) -> Dense:
    def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=factor / temperature)

    return dense


def _check(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, implementation: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        allowed = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"implementation: got {implementation!r}, allowed are {allowed}")
    check_operands(q, k, v)
    check_region(plan, q, k)
    square = plan.map is not None and bool((plan.map.identity != 0).any())
    if square and q.shape[2] != k.shape[2]:
        raise ValueError(
            f"map: the identity needs as many keys as queries; got {q.shape[2]} queries "
            f"and {k.shape[2]} keys (self-attention has both equal, cross-attention does not)"
        )
