"""Joint attention whose video attends to itself by a plan of its own: two attentions, put together.

A video query's softmax over all keys is w · (that over video keys) + (1 − w) · (that over the
others), with w from the two log-sum-exps. The first is carried out as the plan wants it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..plan import AttentionPlan, Source
from .dense import Dense, Scores, blocks_of, mean_value, picked, taken, tempered
from .fused import attention_and_lse
from .masks import cut
from .thin import Thinning, thin


@dataclass(frozen=True)
class Inside:
    """What is called inside: the ordinary attention, and who hears of dropped weights."""

    dense: Dense
    scale: float | None
    report: Callable[[Thinning], None]


@dataclass(frozen=True)
class _Part:
    """What counts with `share` [B, H]: attention over some keys, out and lse [B, H, Lv, …]."""

    share: Tensor
    out: Tensor
    lse: Tensor


def regional_attend(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, inside: Inside, mask: Tensor | None
) -> Tensor:
    """A V with the video's own plan in it, [B, H, Lq, Dv].

    Rows and heads that it does not touch, and all text queries, attend as ever.
    """
    assert plan.video is not None and plan.span is not None
    touched, span = plan.video.touched, plan.span
    ones = torch.ones(touched.shape)
    temperature = ones if plan.temperature is None else plan.temperature
    own = taken((q, k, mask), (q, k, mask), plan.source)
    text = torch.ones(k.shape[2], dtype=torch.bool, device=q.device)
    text[span] = False
    text = text.nonzero()[:, 0]
    out = v.new_empty(*q.shape[:3], v.shape[3])
    everything = torch.arange(q.shape[2], device=q.device)
    for at, queries in ((~touched, everything), (touched, text)):
        for rows, heads in blocks_of(at, q.device):
            block, some = (rows, heads), (rows[..., None], heads[:, None], queries)
            hidden = cut(picked(own[2], block), queries, slice(None))
            asked = own[0][some], own[1][block], v[block], temperature[rows.cpu(), heads.cpu()]
            out[some] = tempered(*asked, inside.dense, hidden)
    beside = own[0][:, :, span], own[1][:, :, text], cut(own[2], span, text)
    beside = _attended(*beside, v[:, :, text], temperature, touched, inside.scale)
    parts = _video_parts(_video((q, k, mask), span), _video(own, span), v[:, :, span], plan, inside)
    whole = _Whole(plan.video, v[:, :, span], cut(mask, span, span))
    for row, head in touched.nonzero().tolist():
        out[row, head, span] = whole.head(beside, parts, row, head).to(out.dtype)
    return out


def _video(scores: Scores, span: slice) -> Scores:
    q, k, mask = scores
    return q[:, :, span], k[:, :, span], cut(mask, span, span)


def _video_parts(
    of_all: Scores, own: Scores, v: Tensor, plan: AttentionPlan, inside: Inside
) -> list[_Part]:
    """The video's attention among itself: of its own scores, and of sources that count in part."""
    assert plan.video is not None
    alone, source, touched = plan.alone, plan.video.source, plan.video.touched
    alone = replace(alone, source=None, map=None, gate=None)
    partial = torch.zeros(touched.shape)
    if source is not None:
        partial = torch.where(source.strength < 1, source.strength, 0.0).to(partial)
    if bool((partial != 0).any()) and alone.threshold is not None and alone.threshold.blocks:
        raise ValueError(
            "sparsity: block mode cannot be combined with a transfer in part; use strength 1, or "
            "mode exact"
        )
    found = [_part(1 - partial, taken(own, of_all, source), v, alone, touched, inside)]
    if source is not None and bool((partial != 0).any()):
        theirs = taken(own, of_all, Source(source.rows, (partial != 0).float()))
        quiet = replace(inside, report=lambda _: None)  # what was dropped is told of the own map
        found.append(_part(partial, theirs, v, alone, touched, quiet))
    return found


def _part(
    share: Tensor, scores: Scores, v: Tensor, alone: AttentionPlan, touched: Tensor, inside: Inside
) -> _Part:
    """softmax(threshold(S / T)) V of the heads with a share."""
    q, k, mask = scores
    at = touched & (share != 0)
    temperature = torch.ones(at.shape) if alone.temperature is None else alone.temperature
    if alone.threshold is None:
        return replace(_attended(q, k, mask, v, temperature, at, inside.scale), share=share)
    rate = torch.where(at, alone.threshold.rate, 0.0)
    found = _attended(q, k, mask, v, temperature, at & (rate == 0), inside.scale)
    thinned = replace(alone, threshold=replace(alone.threshold, rate=rate))
    inside.report(thin(found.out, q, k, v, thinned, mask, inside.scale, found.lse))
    return replace(found, share=share)


def _attended(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    v: Tensor,
    temperature: Tensor,
    at: Tensor,
    scale: float | None,
) -> _Part:
    """softmax(S / T) V of the rows and heads `at` [B, H]; the others hold anything."""
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    out = v.new_empty(*q.shape[:3], v.shape[3])
    lse = q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
    for value in temperature[at].unique().tolist():
        for block in blocks_of(at & (temperature == value), q.device):
            parts = q[block], k[block], v[block], picked(mask, block)
            out[block], lse[block] = attention_and_lse(*parts, factor / value)
    return _Part(at, out, lse)


class _Whole:
    """Puts the parts of a video query's row together. inner: the video's plan, v: its values."""

    def __init__(self, inner: AttentionPlan, v: Tensor, mask: Tensor | None) -> None:
        self.inner, self.v = inner, v
        uniform = inner.map is not None and bool((inner.map.uniform != 0).any())
        self.mean = mean_value(v, mask) if uniform else None

    def head(self, beside: _Part, parts: list[_Part], row: int, head: int) -> Tensor:
        """gate · w · M V + (1 − w) · A V of the other keys, [Lv, Dv] in float32 or float64."""
        others, out = beside.out[row, head].to(beside.lse.dtype), 0.0
        for part in parts:
            share = float(part.share[row, head])
            if share == 0:
                continue
            w = (part.lse[row, head] - beside.lse[row, head]).sigmoid().nan_to_num(0)
            video = self._mixed(part.out[row, head].to(others.dtype), row, head)
            out = out + share * torch.lerp(others, video, w[:, None])
        assert isinstance(out, Tensor)
        return out

    def _mixed(self, out: Tensor, row: int, head: int) -> Tensor:
        """gate · M V of the video among itself from A V."""
        if (mix := self.inner.map) is not None:
            identity, uniform = float(mix.identity[row, head]), float(mix.uniform[row, head])
            out = (1 - identity - uniform) * out
            if identity:
                out += identity * self.v[row, head]
            if self.mean is not None and uniform:
                out += uniform * self.mean[row, head]
        return out if self.inner.gate is None else float(self.inner.gate[row, head]) * out
