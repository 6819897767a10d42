"""Drop the smallest weights of chosen heads, exactly: an oracle, which saves no time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..measures.spectrum import Missed, Quantile, Selection, SortedRows
from ..plan import AttentionPlan
from .tiles import HeadGroup, Softmax, heads_at_once

MARGINS = (6.0, 30.0, float("inf"))  # standard errors kept around the quantile; the last is safe


@dataclass(frozen=True)
class Thinning:
    """What was dropped, each [B, H] float64: the thresholds, and the shares of the allowed weights
    and of their mass that lay below. Zero where a head is dense."""

    weights: Tensor
    realised_rate: Tensor
    mass_lost: Tensor

    @classmethod
    def nothing(cls, batch: int, heads: int) -> Thinning:
        return cls(*(torch.zeros(batch, heads, dtype=torch.float64) for _ in range(3)))

    def among(self, heads: Tensor, count: int) -> Thinning:
        """The same for heads that are some of `count`."""
        whole = Thinning.nothing(len(self.weights), count)
        for name, values in vars(whole).items():
            values[:, heads] = getattr(self, name)
        return whole


def thin(
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Thinning:
    """Write A V of the heads that the plan thins into out [B, H, Lq, D]; the others stay."""
    assert plan.threshold is not None
    done = Thinning.nothing(*q.shape[:2])
    softmax_only = replace(plan, map=None, gate=None)
    for row in (plan.threshold.rate > 0).any(1).nonzero()[:, 0].tolist():
        thinned = (plan.threshold.rate[row] > 0).nonzero()[:, 0]
        for heads in thinned.split(heads_at_once(q.device, q.shape[2], k.shape[2])):
            group = thinned_group(q, k, softmax_only, row, heads, mask, scale)
            _write(out, group, v, done)
    return done


def thinned_group(
    q: Tensor,
    k: Tensor,
    plan: AttentionPlan,
    row: int,
    heads: Tensor,
    mask: Tensor | None,
    scale: float | None,
) -> HeadGroup:
    """Some heads of one row, with the plan's thresholds or the quantiles of their own maps."""
    group = HeadGroup(q, k, plan, row, heads, mask, scale)
    if plan.threshold is None or not bool((plan.threshold.rate[row, heads] > 0).any()):
        return group
    rates = plan.threshold.rate[row, heads]
    for part in group.parts:
        if plan.threshold.weights is None:
            found = torch.tensor([q.log_weight for q in quantiles(part, rates)])
        else:
            found = plan.threshold.weights[row, heads].log()
        found = found.where(rates > 0, -torch.inf)
        part.thresholds = found.to(part.q.device, part.q.dtype)
        part.renormalize = plan.threshold.renormalize
    return group


def quantiles(softmax: Softmax, rates: Tensor, size: int | None = None) -> list[Quantile]:
    """The exact quantile of each head's allowed weights. rates: [G] in 0..1."""
    for margin in MARGINS:
        states = [Selection(rate, softmax.queries, margin) for rate in rates.tolist()]
        try:
            for tile in softmax.tiles(size):
                for state, *rows in zip(
                    states, tile.logs, tile.log_total, tile.allowed, strict=True
                ):
                    state.add(SortedRows(*rows))
            return [state.result() for state in states]
        except Missed:
            continue
    raise AssertionError("a selection that keeps everything cannot miss")


def _write(out: Tensor, group: HeadGroup, v: Tensor, done: Thinning) -> None:
    row, heads, device = group.row, group.heads, v.device
    values = v[row, heads.to(device)].to(group.dtype)
    result = values.new_empty(len(heads), group.queries, values.shape[-1])
    dropped = values.new_zeros(2, len(heads), dtype=torch.float64)
    entries = values.new_zeros(2, len(heads), dtype=torch.float64)
    for tile in group.tiles():
        result[:, tile.queries] = tile.weights @ values / tile.total[..., None]
        if tile.dropped is not None:
            dropped += torch.stack([part.sum(-1, dtype=torch.float64) for part in tile.dropped])
        attending = (tile.allowed > 0).sum(-1)
        entries += torch.stack([tile.allowed.sum(-1), attending])
    out[row, heads.to(device)] = result.to(out.dtype)
    done.realised_rate[row, heads], done.mass_lost[row, heads] = (
        dropped / entries.clamp_min(1)
    ).cpu()
    if group.own.thresholds is not None:
        done.weights[row, heads] = group.own.thresholds.double().exp().cpu()
