"""Block-sparse attention: whole blocks of queries × keys are left out, which does save time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .fused import attention_and_lse
from .heads import HeadGroup
from .tiles import Softmax

if TYPE_CHECKING:  # torch 2.4, which ComfyUI still takes, has no such module
    from torch.nn.attention.flex_attention import BlockMask


def block_masses(softmax: Softmax, size: int) -> Tensor:
    """Mass of each block, summed over its queries: [G, nq, nk] float64, exact."""
    (heads, queries, _), keys = softmax.q.shape, softmax.keys.shape[-1]
    count = -(-queries // size), -(-keys // size)
    sums = softmax.q.new_zeros(heads, *count, dtype=torch.float64)
    whole = keys // size * size
    for tile in softmax.tiles():
        share = tile.mass.sign() / tile.total
        blocks = tile.weights[..., :whole].unflatten(-1, (-1, size)).sum(-1)
        if whole < keys:
            rest = tile.weights[..., whole:].sum(-1, keepdim=True)
            blocks = torch.cat([blocks, rest], -1)
        sums.index_add_(1, tile.queries // size, (blocks * share[..., None]).double())
    return sums


def choose_blocks(masses: Tensor, rates: Tensor) -> Tensor:
    """Keep the heaviest blocks of each head and drop a share `rates` [G]: [G, nq, nk] bool.

    Each run of queries keeps its heaviest block, so that no query is left without keys.
    """
    heads, queries, keys = masses.shape
    kept = torch.zeros_like(masses, dtype=torch.bool)
    order = masses.flatten(1).sort(-1, descending=True).indices
    for head in range(heads):
        wanted = queries * keys - int(float(rates[head]) * queries * keys)
        kept[head].view(-1)[order[head, :wanted]] = True
    return kept.scatter_(-1, masses.argmax(-1, keepdim=True), True)


def kept_mass(masses: Tensor, kept: Tensor) -> Tensor:
    """Mean share of a row's mass inside the kept blocks, [G]."""
    return (masses * kept).sum((-2, -1)) / masses.sum((-2, -1)).clamp_min(1e-300)


def block_attend(
    group: HeadGroup, v: Tensor, kept: Tensor, size: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Attention of some heads on the kept blocks, [G, Lq, Dv], and its log-sum-exp, [G, Lq].

    v: [G, Lk, Dv].

    On CUDA torch's FlexAttention, which computes the kept blocks alone; it needs Triton and takes
    no mask of the model's. Elsewhere the keys of each run of queries are gathered for torch's fused
    attention.
    """
    q, k = group.own.q.to(dtype), group.own.keys.mT.to(dtype).contiguous()
    kept, v = kept.to(v.device), v.to(dtype)
    if v.is_cuda and group.own.mask is None and size % 64 == 0 and _has_flex():
        return flex_attend(q, k, v, kept, size, _compiled_flex())
    return _gathered(group.own, q, k, v, kept, size)


def flex_attend(
    q: Tensor, k: Tensor, v: Tensor, kept: Tensor, size: int, flex: Callable[..., Any]
) -> tuple[Tensor, Tensor]:
    """softmax(Q Kᵀ) V on the kept blocks and its lse, by FlexAttention. q, k, v: [G, L, D]."""
    mask = flex_mask(kept[None], size, (q.shape[1], k.shape[1]))
    out, lse = flex(q[None], k[None], v[None], block_mask=mask, scale=1.0, return_lse=True)
    return out[0], lse[0]


def flex_mask(kept: Tensor, size: int, lengths: tuple[int, int]) -> BlockMask:
    """The same blocks for FlexAttention. kept: [B, H, nq, nk] bool."""
    from torch.nn.attention.flex_attention import BlockMask

    order = kept.int().argsort(stable=True, dim=-1, descending=True).int()
    count = kept.sum(-1).int()
    return BlockMask.from_kv_blocks(
        torch.zeros_like(count), order, count, order, BLOCK_SIZE=size, seq_lengths=lengths
    )


@cache
def _has_flex() -> bool:
    """Whether FlexAttention is there, compiles, and takes lengths that are no whole blocks."""
    if find_spec("triton") is None or find_spec("torch.nn.attention.flex_attention") is None:
        return False
    from torch.nn.attention.flex_attention import BlockMask

    return "seq_lengths" in signature(BlockMask.from_kv_blocks).parameters


@cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _gathered(
    own: Softmax, q: Tensor, k: Tensor, v: Tensor, kept: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    (queries, keys), device = (q.shape[1], k.shape[1]), v.device
    out = v.new_empty(len(kept), queries, v.shape[-1])
    lse = own.q.new_empty(len(kept), queries)
    for head, blocks in enumerate(kept):
        for index, row in enumerate(blocks):
            at = torch.arange(index * size, min((index + 1) * size, queries), device=device)
            chosen = row.repeat_interleave(size)[:keys].nonzero()[:, 0]
            bias = own.bias(at)
            if bias is not None:
                bias = bias.expand(len(kept), len(at), -1)[head][None, None, :, chosen]
            some_k, some_v = (x[head].index_select(0, chosen)[None, None] for x in (k, v))
            some, sums = attention_and_lse(q[head, at][None, None], some_k, some_v, bias, 1.0)
            out[head, at], lse[head, at] = some[0, 0], sums[0, 0].to(lse.dtype)
    return out, lse
