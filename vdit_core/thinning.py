"""What a run remembers of sparsity: thresholds and blocks found earlier, and what was dropped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .attention import Thinning, cut, measure
from .plan import AttentionPlan
from .sites import Call, Site


@dataclass(frozen=True)
class _Choice:
    """Blocks chosen at a step, for heads with these rates [B, H]."""

    step: int
    rate: Tensor
    kept: Tensor


@dataclass
class _Dropped:
    """Sums over the heads and calls of a layer. measured: heads whose lost mass is known."""

    asked: float = 0.0
    realised: float = 0.0
    lost: float = 0.0
    heads: int = 0
    measured: int = 0


class Thinned:
    """The memory of one run, by layer."""

    def __init__(self) -> None:
        self._weights: dict[object, Tensor] = {}  # by call.whom
        self._choices: dict[object, _Choice] = {}
        self._dropped: dict[Site, _Dropped] = {}
        self._exact = False

    def planned(
        self,
        plan: AttentionPlan,
        call: Call,
        q: Tensor,
        k: Tensor,
        mask: Tensor | None,
        scale: float | None,
        rehearsing: bool,
    ) -> AttentionPlan:
        """The plan with thresholds or blocks of earlier, or without any while rehearsing."""
        threshold, key = plan.thinning, call.whom
        assert threshold is not None
        if rehearsing:
            if threshold.two_run:
                self._weights[key] = _thresholds(plan, q, k, mask, scale)
            return plan.with_thinning(None)
        if threshold.two_run:
            return plan.with_thinning(replace(threshold, weights=self._weights[key]))
        blocks, choice = threshold.blocks, self._choices.get(key)
        if blocks is None or choice is None or not torch.equal(choice.rate, threshold.rate):
            return plan
        if not 0 <= call.step - choice.step < blocks.reuse:
            return plan
        return plan.with_thinning(replace(threshold, blocks=replace(blocks, kept=choice.kept)))

    def hear(self, plan: AttentionPlan, call: Call, thinning: Thinning) -> None:
        """Remember what one call dropped."""
        assert plan.thinning is not None
        rate, key = plan.thinning.rate, call.whom
        blocks = plan.thinning.blocks
        self._exact = self._exact or blocks is None
        if thinning.kept is not None and blocks is not None and blocks.kept is None:
            self._choices[key] = _Choice(call.step, rate, thinning.kept)
        thinned = rate > 0
        if not bool(thinned.any()):  # a layer that the schedule spares
            return
        lost = thinning.mass_lost[thinned]
        known = ~lost.isnan()
        sums = self._dropped.setdefault(call.site, _Dropped())
        sums.asked += float(rate[thinned].sum())
        sums.realised += float(thinning.realised_rate[thinned].sum())
        sums.lost += float(lost[known].sum())
        sums.heads += len(lost)
        sums.measured += int(known.sum())

    def report(self, sites: Iterable[Site]) -> str:
        """Asked and dropped, layer by layer, in words for the node."""
        lines = [
            f"layer {site.layer}: asked {sums.asked / sums.heads:.1%}, dropped "
            f"{sums.realised / sums.heads:.1%}, mass lost {sums.lost / max(1, sums.measured):.2%}"
            for site in sorted(sites, key=lambda s: s.layer)
            if (sums := self._dropped.get(site)) is not None
        ]
        if self._exact:
            lines.insert(0, "exact sparsity shows what can be dropped; it saves no time")
        return "".join(f"\n{line}" for line in lines)


def _thresholds(
    plan: AttentionPlan, q: Tensor, k: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    """The weight at each head's rate, [B, H]; heads of one rate are measured together."""
    if plan.video is not None and (span := plan.span) is not None:
        return _thresholds(plan.alone, q[:, :, span], k[:, :, span], cut(mask, span, span), scale)
    assert plan.threshold is not None
    rate, dense = plan.threshold.rate, replace(plan, threshold=None, map=None)
    found = torch.zeros(rate.shape, dtype=torch.float64)
    for row in range(len(rate)):
        for value in rate[row][rate[row] > 0].unique().tolist():
            heads = (rate[row] == value).nonzero()[:, 0]
            some = measure(
                q,
                k,
                wants=["threshold"],
                plan=dense,
                rate=value,
                rows=[row],
                heads=heads,
                mask=mask,
                scale=scale,
            )
            found[row, heads] = some["threshold"][0].double().cpu()
    return found
