"""The specification of every statistic: read off dense maps, one by one, in the input's dtype."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..grid import TokenGrid
from ..measures.spectrum import CURVE
from ..plan import AttentionPlan
from .question import Question
from .reference import as_numbers, reference_maps, reference_scores
from .results import Measures


def reference_measure(
    question: Question,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    mask: Tensor | None,
    scale: float | None,
    plan: AttentionPlan,
    rows: list[int],
    heads: Tensor,
) -> Measures:
    """The fields asked for, from the maps of all rows and heads."""
    shape = (*q.shape[:3], k.shape[2])
    allowed = torch.isfinite(as_numbers(mask, shape, q))
    maps = reference_maps(q, k, plan, mask=mask, scale=scale)
    maps = maps.where(allowed.any(-1, keepdim=True), 0)
    scores = reference_scores(q, k, plan, mask=mask, scale=scale)
    view = _View(question, maps, scores, allowed, v)
    chosen = torch.tensor(rows)[:, None].to(q.device), heads.to(q.device)
    return Measures(**{name: FIELDS[name](view)[chosen] for name in question.wants})


class _View:
    """Maps [B, H, Lq, Lk] and what belongs to them."""

    def __init__(
        self, question: Question, maps: Tensor, scores: Tensor, allowed: Tensor, v: Tensor | None
    ) -> None:
        self.question, self.maps, self.scores = question, maps, scores
        self.allowed, self._v = allowed, v

    @property
    def v(self) -> Tensor:
        assert self._v is not None
        return self._v

    @property
    def grid(self) -> TokenGrid:
        assert self.question.grid is not None
        return self.question.grid

    @property
    def out(self) -> Tensor:
        return self.maps @ self.v.to(self.maps)


def _coverage(view: _View) -> tuple[Tensor, Tensor]:
    heavy = (view.maps >= view.question.tau).sum(-2)
    key = (heavy + view.maps.double().sum(-2) / (view.maps.shape[-2] + 1)).argmax(-1)
    share = heavy.gather(-1, key[..., None])[..., 0] / view.maps.shape[-2]
    return share, key


def _value_norms(view: _View) -> Tensor:
    norms = view.v.double().norm(dim=-1)
    at = norms.gather(-1, _coverage(view)[1][..., None])[..., 0]
    return torch.stack([at, (norms.sum(-1) - at) / max(1, norms.shape[-1] - 1)], -1)


def _of_heads(read: Callable[[Tensor, _View], object]) -> Callable[[_View], Tensor]:
    """Read each head's allowed weights, a flat list, and put the answers together."""

    def field(view: _View) -> Tensor:
        batch, heads = view.maps.shape[:2]
        answers = [
            torch.as_tensor(read(view.maps[b, h][view.allowed[b, h]], view), dtype=torch.float64)
            for b in range(batch)
            for h in range(heads)
        ]
        return torch.stack(answers).unflatten(0, (batch, heads)).to(view.maps.device)

    return field


def threshold_of(weights: Tensor, rate: float) -> Tensor:
    """The weight at the quantile `rate` of a flat list."""
    return weights.sort().values[min(int(rate * weights.numel()), weights.numel() - 1)]


def _below(weights: Tensor, view: _View) -> Tensor:
    return weights < threshold_of(weights, view.question.rate)


def _mass_lost(weights: Tensor, view: _View) -> Tensor:
    return weights[_below(weights, view)].sum(dtype=torch.float64) / weights.sum(
        dtype=torch.float64
    )


def _curve(weights: Tensor, view: _View) -> Tensor:
    at = torch.tensor([j * math.log(2) - math.log(view.maps.shape[-1]) for j in CURVE])
    below = weights.log() < at.to(weights)[:, None]
    rate = below.double().mean(-1)
    return torch.stack([rate, 1 - (weights * below).double().sum(-1) / weights.double().sum()])


def _keys_for_95(view: _View) -> Tensor:
    rising = view.maps.double().sort(-1).values.cumsum(-1)
    dropped = (rising <= 0.05 * rising[..., -1:]).sum(-1)
    kept = (view.maps.shape[-1] - dropped).clamp_min(1)
    keys = view.allowed.sum(-1)
    return (kept / keys.clamp_min(1) * (keys > 0)).sum(-1) / (keys > 0).sum(-1)


def _by_distance(view: _View, distance: Tensor) -> Tensor:
    """Mean over video queries of the mass on video keys at each distance [n, n] of tokens."""
    video = view.maps[..., view.grid.video, view.grid.video]
    answers = [(video * (distance == d)).sum((-2, -1)) for d in range(int(distance.max()) + 1)]
    return torch.stack(answers, -1) / view.grid.video_tokens


def _frame_distance(view: _View) -> Tensor:
    frame, _, _ = view.grid.unravel(torch.arange(view.grid.video_tokens) + view.grid.prefix)
    return _by_distance(view, (frame[:, None] - frame).abs().to(view.maps.device))


def _spatial_distance(view: _View) -> Tensor:
    _, row, col = view.grid.unravel(torch.arange(view.grid.video_tokens) + view.grid.prefix)
    distance = torch.hypot((row[:, None] - row).float(), (col[:, None] - col).float()).round()
    return _by_distance(view, distance.to(view.maps.device))


def _frame_mass(view: _View) -> Tensor:
    grid = view.grid
    video = view.maps[..., grid.video, grid.video]
    return video.unflatten(-1, (grid.frames, -1)).sum(-1).unflatten(-2, (grid.frames, -1)).mean(-2)


def _text_mass(view: _View) -> Tensor:
    queries = view.question.grid.video if view.question.grid is not None else slice(None)
    return view.maps[..., queries, view.question.text].mean(-2)


def _text_own_mass(view: _View) -> Tensor:
    text = view.question.text
    return view.maps[..., text, text].mean(-2)


def _members(view: _View) -> Tensor:
    """Which video token is in which bin, as a mean over the bin's tokens [tokens, m]."""
    grid = view.question.map_grid
    member = torch.nn.functional.one_hot(grid.bins(view.question.map_size)).to(view.maps)
    return member / member.sum(0)


def _pooled_map(view: _View) -> Tensor:
    video, mean = view.question.map_grid.video, _members(view)
    return mean.T @ view.maps[..., video, video] @ mean


def _other_mass(view: _View) -> Tensor:
    video = view.question.map_grid.video
    maps = view.maps[..., video, :].clone()
    maps[..., video] = 0
    return maps.sum(-1) @ _members(view)


FIELDS: dict[str, Callable[[_View], Tensor]] = {
    "out": lambda view: view.out.to(view.v.dtype),
    "lse": lambda view: view.scores.logsumexp(-1),
    "entropy": lambda view: torch.special.entr(view.maps).sum(-1),
    "energy": lambda view: view.out.double().square().sum((-2, -1)),
    "max_weight": lambda view: view.maps.amax(-1),
    "column_sums": lambda view: view.maps.sum(-2, dtype=torch.float64),
    "coverage": lambda view: _coverage(view)[0],
    "coverage_key": lambda view: _coverage(view)[1],
    "value_norms": _value_norms,
    "threshold": _of_heads(lambda weights, view: threshold_of(weights, view.question.rate)),
    "realised_rate": _of_heads(lambda weights, view: _below(weights, view).double().mean()),
    "mass_lost": _of_heads(_mass_lost),
    "mass_curve": _of_heads(_curve),
    "keys_for_95": _keys_for_95,
    "frame_distance_mass": _frame_distance,
    "spatial_distance_mass": _spatial_distance,
    "text_mass": _text_mass,
    "pooled_map": _pooled_map,
    "other_mass": _other_mass,
    "frame_mass": _frame_mass,
    "text_own_mass": _text_own_mass,
}
