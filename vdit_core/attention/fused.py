"""Attention that also says its log-sum-exp, by torch's fused kernels or, where none fits, in tiles.

Two attentions of one query over different keys make one over all of them: w · A + (1 − w) · B, with
w = sigmoid(lse_A − lse_B).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.backends.cuda import (
    SDPAParams,
    can_use_efficient_attention,
    can_use_flash_attention,
)

from .tiles import Softmax, as_bias, heads_at_once

HALF = torch.float16, torch.bfloat16


def attention_and_lse(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, factor: float
) -> tuple[Tensor, Tensor]:
    """softmax(factor · Q Kᵀ + mask) V, [B, H, Lq, Dv], and its log-sum-exp, [B, H, Lq] float32.

    q, k, v: [B, H, L, D]. A query that may attend nowhere has an lse of LOWEST or −inf.
    """
    if q.shape[-1] == v.shape[-1]:
        if q.device.type == "cpu":
            return _on_cpu(q, k, v, mask, factor)
        if q.is_cuda and (mask is None or _hides_nothing(mask)):
            found = _on_cuda(q, k, v, factor)
            if found is not None:
                return found
    return _in_tiles(q, k, v, mask, factor)


def _on_cpu(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, factor: float
) -> tuple[Tensor, Tensor]:
    bias = None if mask is None else as_bias(mask, _wide(q))  # the kernel calls the lse of −inf 0
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return attend(q, k, v, attn_mask=bias, scale=factor)


def _on_cuda(q: Tensor, k: Tensor, v: Tensor, factor: float) -> tuple[Tensor, Tensor] | None:
    """None where neither kernel takes these tensors, or the user has switched both off."""
    params = _params(q, k, v)
    if q.dtype in HALF and q.shape[-1] % 8 == 0 and can_use_flash_attention(params):
        out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=factor)
        return out[0], out[1]
    if can_use_efficient_attention(params):
        attend = torch.ops.aten._scaled_dot_product_efficient_attention
        out = attend(q, k, v, None, True, scale=factor)
        return out[0], out[1][..., : q.shape[2]]  # the kernel pads the queries of the lse
    return None


def _params(q: Tensor, k: Tensor, v: Tensor) -> SDPAParams:
    """No mask, no dropout, not causal, no grouped keys, of which torch 2.4 knows nothing yet."""
    given = q, k, v, None, 0.0, False
    try:
        return SDPAParams(*given, False)
    except TypeError:
        return SDPAParams(*given)  # pyright: ignore[reportCallIssue]


def _in_tiles(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, factor: float
) -> tuple[Tensor, Tensor]:
    out = v.new_empty(*q.shape[:3], v.shape[3])
    lse = q.new_empty(q.shape[:3], dtype=_wide(q))
    every = torch.arange(q.shape[1], device=q.device)
    for row in range(q.shape[0]):
        for at in every.split(heads_at_once(q.device, q.shape[2], k.shape[2])):
            keys = k[row, at].to(lse.dtype).mT.contiguous()
            scaled = q[row, at].to(lse.dtype) * factor
            softmax = Softmax(scaled, keys, torch.full_like(at, row), at, mask)
            values = v[row, at].to(lse.dtype)
            for tile in softmax.tiles():
                part = tile.weights @ values / tile.total[..., None]
                out[row, at[:, None], tile.queries] = part.to(out.dtype)
                lse[row, at[:, None], tile.queries] = tile.lse
    return out, lse


def _hides_nothing(mask: Tensor) -> bool:
    return bool(mask.all() if mask.dtype == torch.bool else (mask == 0).all())


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
