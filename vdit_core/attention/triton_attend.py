"""Attention by Triton kernels, with or without its smallest weights. Unmeasured on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..plan import AttentionPlan, Threshold
from .thin import Thinning
from .triton_heads import FoldedHeads, check_values, fold
from .triton_launch import read_kept, read_rows
from .triton_spectrum import select

GROUP_BYTES = 2**26  # of the float32 output of a group of heads


def triton_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    *,
    mask: Tensor | None,
    scale: float | None,
    report: Callable[[Thinning], None],
) -> Tensor:
    """gate · M V. Heads whose gate is 0 are not computed.

    Raises RuntimeError where Triton cannot run, and ValueError for a plan it cannot fold.
    """
    check_values(q, v)
    if plan.threshold is not None and plan.threshold.blocks is not None:
        raise ValueError("threshold: 'triton' drops single weights, not blocks of them")
    gate = torch.ones(q.shape[:2]) if plan.gate is None else plan.gate.float()
    out = v.new_zeros(*q.shape[:3], v.shape[3])
    found = Thinning.nothing(q.shape[:2])
    rate = torch.zeros_like(gate) if plan.threshold is None else plan.threshold.rate
    size = max(1, GROUP_BYTES // (4 * q.shape[2] * v.shape[3]))
    for thin in (None, plan.threshold):
        chosen = (gate != 0) & (rate == 0 if thin is None else rate > 0)
        for part in chosen.nonzero().split(size) if bool(chosen.any()) else ():
            row, head = part.unbind(-1)
            heads = fold(q, k, mask, scale, plan, row, head)
            result = _dense(heads, v) if thin is None else _thinned(heads, v, thin, part, found)
            scaled = result * gate[row, head].to(result)[:, None, None]
            out[heads.value_rows, heads.heads] = scaled.to(out.dtype)
    if plan.threshold is not None:
        report(found)
    return out


def _dense(heads: FoldedHeads, v: Tensor) -> Tensor:
    out = read_rows(heads, v).out
    assert out is not None
    return out


def _thinned(
    heads: FoldedHeads, v: Tensor, threshold: Threshold, part: Tensor, found: Thinning
) -> Tensor:
    """M V of the thinned heads at part [n, 2], row and head; `found` is told what was dropped."""
    row, head = part.unbind(-1)
    rows = read_rows(heads)
    if threshold.weights is None:
        levels = select(heads, rows, threshold.rate[row, head].double()).log_weight
    else:
        levels = threshold.weights[row, head].log().to(heads.q.device, torch.float32)
    out, left, kept = read_kept(heads, rows, v, levels, threshold.renormalize)
    entries, attending = (x.sum(-1).clamp_min(1) for x in (rows.allowed, rows.attends))
    lost = (rows.attends.double() - left).clamp_min(0).sum(-1) / attending
    found.weights[row, head] = levels.double().exp().cpu()
    found.realised_rate[row, head] = ((rows.allowed - kept).sum(-1) / entries.double()).cpu()
    found.mass_lost[row, head] = lost.cpu()
    return out
