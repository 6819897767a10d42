"""Drop the smallest weights of chosen heads: one by one (an oracle, no faster) or by blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..measures.spectrum import Quantile, Selection, until_found
from ..plan import AttentionPlan, Blocks
from .blocks import block_attend, block_masses, choose_blocks, kept_mass
from .heads import HeadGroup
from .tiles import Softmax, heads_at_once


@dataclass(frozen=True)
class Thinning:
    """What was dropped, each [B, H] float64; zero where a head is dense.

    weights: the thresholds. realised_rate, mass_lost: shares of the allowed weights (of the blocks,
    in block mode) and of their mass; mass_lost is NaN where an earlier choice of blocks was reused.
    kept: [B, H, nq, nk] bool, the blocks, in block mode.
    """

    weights: Tensor
    realised_rate: Tensor
    mass_lost: Tensor
    kept: Tensor | None = None

    @classmethod
    def nothing(cls, shape: Sequence[int], blocks: tuple[int, int] | None = None) -> Thinning:
        """shape: (B, H)."""

        def zeros() -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        kept = None if blocks is None else torch.ones(*shape, *blocks, dtype=torch.bool)
        return cls(zeros(), zeros(), zeros(), kept)

    def among(self, heads: Tensor, count: int) -> Thinning:
        """The same for heads that are some of `count`."""
        blocks = None if self.kept is None else (self.kept.shape[2], self.kept.shape[3])
        whole = Thinning.nothing((len(self.weights), count), blocks)
        for name, values in vars(whole).items():
            if values is not None:
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
    lse: Tensor | None = None,
) -> Thinning:
    """Write A V of the heads that the plan thins into out [B, H, Lq, D]; the others stay.

    lse: [B, H, Lq], likewise, of the scores before weights are dropped or, in blocks, of the kept.
    """
    assert plan.threshold is not None
    blocks = plan.threshold.blocks
    counts = None if blocks is None else _block_counts(q, k, blocks)
    done = Thinning.nothing(q.shape[:2], counts)
    softmax_only = replace(plan, map=None, gate=None)
    for row in (plan.threshold.rate > 0).any(1).nonzero()[:, 0].tolist():
        thinned = (plan.threshold.rate[row] > 0).nonzero()[:, 0]
        for heads in thinned.split(heads_at_once(q.device, q.shape[2], k.shape[2])):
            if blocks is None:
                _write(
                    out, thinned_group(q, k, softmax_only, row, heads, mask, scale), v, done, lse
                )
            else:
                group = HeadGroup(q, k, softmax_only, row, heads, mask, scale)
                _write_blocks(out, group, v, plan.threshold.rate[row, heads], blocks, done, lse)
    return done


def _block_counts(q: Tensor, k: Tensor, blocks: Blocks) -> tuple[int, int]:
    return -(-q.shape[2] // blocks.size), -(-k.shape[2] // blocks.size)


def _write_blocks(
    out: Tensor,
    group: HeadGroup,
    v: Tensor,
    rates: Tensor,
    blocks: Blocks,
    done: Thinning,
    lse: Tensor | None,
) -> None:
    if group.source is not None:
        raise ValueError(
            "sparsity: block mode cannot be combined with a transfer in part; use strength 1, or "
            "mode exact"
        )
    assert done.kept is not None
    row, heads, index = group.row, group.heads, group.heads.to(v.device)
    kept, lost = kept_blocks(group.own, rates, blocks, row, heads)
    done.mass_lost[row, heads] = lost.cpu()
    result, sums = block_attend(group, v[row, index], kept, blocks.size, out.dtype)
    out[row, index] = result
    if lse is not None:
        lse[row, index] = sums.to(lse.dtype)
    done.realised_rate[row, heads] = 1 - kept.double().mean((-2, -1)).cpu()
    done.kept[row, heads] = kept.cpu()


def thinned_group(
    q: Tensor,
    k: Tensor,
    plan: AttentionPlan,
    row: int,
    heads: Tensor,
    mask: Tensor | None,
    scale: float | None,
) -> HeadGroup:
    """Some heads of one row, with the plan's thresholds or blocks, or those of their own maps."""
    group, threshold = HeadGroup(q, k, plan, row, heads, mask, scale), plan.thinning
    if threshold is None or not bool((threshold.rate[row, heads] > 0).any()):
        return group
    rates, blocks = threshold.rate[row, heads], threshold.blocks
    for part in group.thinnable:
        if blocks is not None:
            part.kept = kept_blocks(part, rates, blocks, row, heads)[0]
            part.block = blocks.size
            continue
        if threshold.weights is None:
            logs = [one.log_weight for (one,) in quantiles(part, rates[:, None])]
            found = torch.tensor(logs, dtype=torch.float64)
        else:
            found = threshold.weights[row, heads].double().log()
        found = found.where(rates > 0, -torch.inf)
        part.thresholds = found.to(part.q.device, part.q.dtype)
        part.renormalize = threshold.renormalize
    return group


def kept_blocks(
    softmax: Softmax, rates: Tensor, blocks: Blocks, row: int, heads: Tensor
) -> tuple[Tensor, Tensor]:
    """The blocks given or, where none are, chosen by mass, and the mass lost [G], NaN if given."""
    if blocks.kept is not None:
        kept = blocks.kept[row, heads].to(softmax.q.device)
        return kept, torch.full((len(heads),), torch.nan, dtype=torch.float64)
    masses = block_masses(softmax, blocks.size)
    kept = choose_blocks(masses, rates)
    return kept, 1 - kept_mass(masses, kept)


def quantiles(softmax: Softmax, rates: Tensor, size: int | None = None) -> list[list[Quantile]]:
    """The exact quantiles of each head's allowed weights, all in one pass. rates: [G, n], 0..1."""

    def select(margin: float) -> list[list[Quantile]]:
        states = [[Selection(r, softmax.queries, margin) for r in of] for of in rates.tolist()]
        for tile in softmax.tiles(size):
            for head, of_head in enumerate(states):
                rows = tile.sorted(head)
                for state in of_head:
                    state.add(rows)
        return [[state.result() for state in of_head] for of_head in states]

    return until_found(select)


def _write(out: Tensor, group: HeadGroup, v: Tensor, done: Thinning, lse: Tensor | None) -> None:
    row, heads, device = group.row, group.heads, v.device
    values = v[row, heads.to(device)].to(group.dtype)
    result = values.new_empty(len(heads), group.queries, values.shape[-1])
    dropped = values.new_zeros(2, len(heads), dtype=torch.float64)
    entries = values.new_zeros(2, len(heads), dtype=torch.float64)
    for tile in group.tiles():
        result[:, tile.queries] = tile.weights @ values / tile.total[..., None]
        if lse is not None:
            lse[row, heads.to(device)[:, None], tile.queries] = tile.lse
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
