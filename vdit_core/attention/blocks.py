"""Block-sparse attention: whole blocks of queries × keys are left out, which does save time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .tiles import HeadGroup, Softmax


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
) -> Tensor:
    """Attention of some heads on the kept blocks, [G, Lq, Dv]. v: [G, Lk, Dv].

    The keys of each run of queries are gathered; torch's fused attention does the rest.
    """
    own = group.own
    q, k, v = own.q.to(dtype), own.keys.mT.to(dtype).contiguous(), v.to(dtype)
    out = v.new_empty(len(kept), group.queries, v.shape[-1])
    token = torch.arange(group.keys, device=v.device)
    for head, blocks in enumerate(kept.to(v.device)):
        for index, row in enumerate(blocks):
            at = torch.arange(index * size, min((index + 1) * size, group.queries), device=v.device)
            chosen = token[row.repeat_interleave(size)[: group.keys]]
            bias = own.bias(at)
            if bias is not None:
                bias = bias.expand(len(kept), len(at), -1)[head][:, chosen].to(dtype)
            out[head, at] = scaled_dot_product_attention(
                q[head, at][None, None],
                k[head].index_select(0, chosen)[None, None],
                v[head].index_select(0, chosen)[None, None],
                attn_mask=bias,
                scale=1.0,
            )[0, 0]
    return out
