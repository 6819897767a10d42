"""What the Triton kernels answer against float64 maps, on a GPU or in triton's interpreter.

Numbers may err by twice what streaming does, plus rounding. What is counted (a quantile, how many
keys hold 95 %) jumps from entry to entry, so it must lie between the true answers for weights a few
roundings smaller and larger.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from vdit_attention.vdit_core.attention import attend, measure
from vdit_attention.vdit_core.attention.reference import (
    as_numbers,
    reference_attend,
    reference_maps,
    reference_scores,
)
from vdit_attention.vdit_core.measures.spectrum import CURVE
from vdit_attention.vdit_core.plan import UNTOUCHED, AttentionPlan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
COUNTED = {
    "coverage",
    "coverage_key",
    "value_norms",
    "threshold",
    "realised_rate",
    "mass_lost",
    "mass_curve",
    "keys_for_95",
}
Operands = tuple[Tensor, Tensor, Tensor]


def operands(
    kind: str, shape: tuple[int, int, int, int], dtype: torch.dtype, keys: int | None = None
) -> Operands:
    """q, k, v of a kind of map: plain, peaked, flat, one key, ties."""
    generator = torch.Generator().manual_seed(5)
    batch, heads, queries, width = shape
    sizes = queries, keys or queries, keys or queries
    q, k, v = (torch.randn(batch, heads, n, width, generator=generator) for n in sizes)
    if kind == "peaked":
        q = 30 * q
    elif kind == "flat":
        q = 0 * q
    elif kind == "one key":
        k[:, :, k.shape[2] // 2] = 6 * q.mean(2) + 6
        q = q + 1
    elif kind == "ties":
        k = k[:, :, torch.arange(k.shape[2]) // 7]
    return q.to(DEVICE, dtype), k.to(DEVICE, dtype), v.to(DEVICE, dtype)


def wide(x: Operands) -> Operands:
    q, k, v = x
    return q.double(), k.double(), v.double()


class Truth:
    """The maps of a call in float64 [B, H, Lq, Lk], and what may be told of them with slack."""

    def __init__(self, x: Operands, plan: AttentionPlan, mask: Tensor | None, scale: float | None):
        q, k, self.v = wide(x)
        where = {"mask": mask, "scale": scale}
        self.maps = reference_maps(q, k, plan, **where)
        self.allowed = torch.isfinite(as_numbers(mask, self.maps.shape, q))
        self.maps = self.maps.where(self.allowed.any(-1, keepdim=True), 0)
        scores = reference_scores(q, k, plan, **where)
        self.largest = float(scores.where(self.allowed, 0).abs().max())
        self.slack = 2**-20 * (4 + self.largest)

    def choose(self, rows: Any, heads: Any) -> None:
        """Keep some rows and heads only, in the order given."""
        self.maps, self.allowed, self.v = (
            x[rows][:, heads] for x in (self.maps, self.allowed, self.v)
        )

    def below(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Share of the allowed weights of each head below level [B, H], and of the mass."""
        less = (self.maps < level[..., None, None]) & self.allowed
        count = less.sum((-2, -1)) / self.allowed.sum((-2, -1)).double()
        return count, (self.maps * less).sum((-2, -1)) / self.maps.sum((-2, -1))

    def coverage(self, tau: float) -> Tensor:
        """Share of the queries that give tau or more to each key, [B, H, Lk]."""
        return (self.maps >= tau).double().mean(-2)

    def keys_for(self, share: float) -> Tensor:
        """Mean share of the keys that hold that share of the mass, [B, H]."""
        rising = self.maps.sort(-1).values.cumsum(-1)
        dropped = (rising <= (1 - share) * rising[..., -1:]).sum(-1)
        keys = self.allowed.sum(-1)
        kept = (self.maps.shape[-1] - dropped).clamp_min(1) / keys.clamp_min(1) * (keys > 0)
        return kept.sum(-1) / (keys > 0).sum(-1)


def check_measures(
    x: Operands,
    *,
    plan: AttentionPlan = UNTOUCHED,
    mask: Tensor | None = None,
    scale: float | None = None,
    **asked: Any,
) -> None:
    """Every field that can be asked for."""
    same = {"plan": plan, "mask": mask, "scale": scale, **asked}
    found = measure(*x, **same, implementation="triton")
    streaming = measure(*x, **same, implementation="streaming")
    exact = measure(*wide(x), **same, implementation="reference")
    truth = Truth(x, plan, mask, scale)
    for name, true in vars(exact).items():
        ours, theirs = getattr(found, name), getattr(streaming, name)
        assert (ours is None) == (true is None), name
        if true is not None:
            assert ours.shape == true.shape, name
            assert ours.device == x[0].device, name
            if name not in COUNTED:
                assert ours.dtype in (torch.float32, torch.float64, x[2].dtype), name
                # V is multiplied by two half-precision parts of a weight, the second of the rest.
                rest = torch.finfo(x[2].dtype).eps ** 2 if name == "energy" else 0.0
                _check_number(name, ours, theirs, true, truth.slack + rest)
    if found.coverage is not None:
        truth.choose(asked.get("rows", slice(None)), asked.get("heads", slice(None)))
        _check_counted(vars(found), truth, asked.get("tau", 0.3), asked.get("rate", 0.5))


def _check_number(name: str, ours: Tensor, theirs: Tensor, true: Tensor, slack: float) -> None:
    nowhere = true.isneginf()
    assert torch.equal(ours.isneginf(), nowhere), name
    rounding = torch.finfo(theirs.dtype).eps + slack
    ours, theirs, true = (x.double().where(~nowhere, 0) for x in (ours, theirs, true))
    allowed = 2 * (theirs - true).abs().max() + rounding * true.abs().max()
    error = (ours - true).abs().max()
    assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


def _check_counted(found: dict[str, Tensor], truth: Truth, tau: float, rate: float) -> None:
    less, more = 1 - truth.slack, 1 + truth.slack
    heavy = truth.coverage(tau * less)
    _check_between(truth.coverage(tau * more).amax(-1), found["coverage"], heavy.amax(-1))
    at = found["coverage_key"][..., None]
    assert (heavy.gather(-1, at)[..., 0] >= found["coverage"] - 1e-6).all()
    norm = truth.v.norm(dim=-1).gather(-1, at)[..., 0]
    torch.testing.assert_close(found["value_norms"][..., 0].double(), norm, rtol=1e-5, atol=0)
    level = found["threshold"]
    low, high = (truth.below(level * by)[0] for by in (less, more))
    entries = truth.allowed.sum((-2, -1)).double()
    place = (rate * entries).floor().clamp_max(entries - 1)
    assert (low <= place / entries).all() and (high >= (place + 0.5) / entries).all()
    _check_between(low, found["realised_rate"], high)
    _check_between(*_masses(truth, level, found["mass_lost"]))
    few, many = (truth.keys_for(0.95 + by * truth.slack) for by in (-1, 1))
    _check_between(few, found["keys_for_95"], many)
    for place, j in enumerate(CURVE):
        level = torch.full_like(found["threshold"], 2**j / truth.maps.shape[-1])
        low, high = (truth.below(level * by)[0] for by in (less, more))
        _check_between(low, found["mass_curve"][..., 0, place], high)
        _check_between(*_masses(truth, level, 1 - found["mass_curve"][..., 1, place]))


def _masses(truth: Truth, level: Tensor, ours: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = (truth.below(level * by)[1] for by in (1 - truth.slack, 1 + truth.slack))
    return low - truth.slack, ours, high + truth.slack


def _check_between(low: Tensor, ours: Tensor, high: Tensor) -> None:
    tiny = 1e-6
    assert ((low - tiny <= ours) & (ours <= high + tiny)).all(), (low, ours, high)


def check_attend(
    x: Operands, plan: AttentionPlan, mask: Tensor | None = None, scale: float | None = None
) -> None:
    """At most twice the error of the exact map, rounded to the dtype, times V in that dtype."""
    q, k, v = wide(x)
    where = {"mask": mask, "scale": scale}
    exact = reference_attend(q, k, v, plan, **where)
    plain = reference_maps(q, k, plan, **where).to(x[2].dtype) @ x[2]
    if plan.gate is not None:
        plain = plain * plan.gate.to(plain)[:, :, None, None]
    ours = attend(*x, plan, **where, implementation="triton")
    assert ours.dtype == x[2].dtype and ours.shape == exact.shape
    truth = Truth(x, plan, mask, scale)
    band = (torch.finfo(ours.dtype).eps / 2 + math.ldexp(truth.slack, -2)) * v.abs().max()
    for norm in (lambda e: e.abs().max(), lambda e: e.square().mean().sqrt()):
        error, theirs = norm(ours.double() - exact), norm(plain.double() - exact)
        assert error <= 2 * (theirs + band), f"error {error:.3g}, allowed {2 * (theirs + band):.3g}"
