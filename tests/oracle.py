"""Dense attention in float64 written from the formula alone, and the error budget of all tests.

    out = gate · M V,  M = (1 − w_I − w_U) · A + w_I · I + w_U · U,
    A = (1 − s) · P(own) + s · P(source),  P = softmax(c · Q Kᵀ / T + mask)

Nothing here comes from the engine: one row and one head at a time, whole maps, no shortcuts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from vdit_attention.vdit_core.plan import AttentionPlan


@dataclass(frozen=True)
class Wish:
    """What one attention call should do, every field [B, H] but rows [B]."""

    temperature: Tensor
    gate: Tensor
    identity: Tensor
    uniform: Tensor
    strength: Tensor
    rows: Tensor


def no_wish(batch: int, heads: int) -> Wish:
    ones, zeros = (partial(make, batch, heads) for make in (torch.ones, torch.zeros))
    return Wish(ones(), ones(), zeros(), zeros(), zeros(), torch.arange(batch))


def wish_of(plan: AttentionPlan, batch: int, heads: int) -> Wish:
    """The numbers a plan holds."""
    wish = no_wish(batch, heads)
    if plan.temperature is not None:
        wish = replace(wish, temperature=plan.temperature)
    if plan.gate is not None:
        wish = replace(wish, gate=plan.gate)
    if plan.map is not None:
        wish = replace(wish, identity=plan.map.identity, uniform=plan.map.uniform)
    if plan.source is not None:
        wish = replace(wish, strength=plan.source.strength, rows=plan.source.rows)
    return wish


@dataclass(frozen=True)
class Case:
    """One attention call: q, k, v [B, H, L, D], a mask that broadcasts to the maps, a wish."""

    q: Tensor
    k: Tensor
    v: Tensor
    wish: Wish
    mask: Tensor | None = None
    scale: float | None = None

    def true_maps(self) -> Tensor:
        """M in float64, [B, H, Lq, Lk]."""
        heads = [[self._true_map(b, h) for h in self._heads] for b in self._rows]
        return torch.stack([torch.stack(row) for row in heads])

    def true_output(self) -> Tensor:
        """gate · M V in float64, [B, H, Lq, D]."""
        out = torch.einsum("bhij,bhjd->bhid", self.true_maps(), self.v.double())
        return self.wish.gate.double()[:, :, None, None] * out

    def plain_output(self) -> Tensor:
        """The same formula in plain torch and the dtype of the inputs, head by head."""
        heads = [[self._plain_head(b, h) for h in self._heads] for b in self._rows]
        return torch.stack([torch.stack(row) for row in heads])

    def largest_scores(self) -> Tensor:
        """Largest |S / T| of each row and head, [B, H]."""
        heads = [
            [
                max(self._scores(r, b, h).abs().max() for r in (b, int(self.wish.rows[b])))
                for h in self._heads
            ]
            for b in self._rows
        ]
        return torch.tensor(heads)

    @property
    def _rows(self) -> range:
        return range(self.q.shape[0])

    @property
    def _heads(self) -> range:
        return range(self.q.shape[1])

    @property
    def _factor(self) -> float:
        return self.q.shape[-1] ** -0.5 if self.scale is None else self.scale

    def _numbers(self, b: int, h: int) -> tuple[float, float, float]:
        w = self.wish
        return float(w.strength[b, h]), float(w.identity[b, h]), float(w.uniform[b, h])

    def _scores(self, row: int, b: int, h: int) -> Tensor:
        products = torch.einsum("id,jd->ij", self.q[row, h].double(), self.k[row, h].double())
        return self._factor * products / self.wish.temperature[b, h].double()

    def _bias(self, row: int, h: int) -> Tensor:
        """The mask as float64 numbers to add, [Lq, Lk]; bool True = may attend."""
        shape = (*self.q.shape[:3], self.k.shape[2])
        if self.mask is None:
            return torch.zeros(shape[2:], dtype=torch.float64)
        if self.mask.dtype == torch.bool:
            return torch.where(self.mask.expand(shape)[row, h], 0.0, float("-inf")).double()
        mask = self.mask.expand(shape)[row, h]
        blocked = mask <= torch.finfo(mask.dtype).min / 2
        return torch.where(blocked, float("-inf"), mask.double())

    def _true_map(self, b: int, h: int) -> Tensor:
        def softmax_of(row: int) -> Tensor:
            scores = self._scores(row, b, h) + self._bias(row, h)
            e = torch.exp(scores - scores.max(1, keepdim=True).values)
            return e / e.sum(1, keepdim=True)

        s, i, u = self._numbers(b, h)
        attention = (1 - s) * softmax_of(b) + s * softmax_of(int(self.wish.rows[b]))
        out = (1 - i - u) * attention + u * self._uniform(b, h)
        return out + i * torch.eye(*out.shape, dtype=torch.float64) if i else out

    def _uniform(self, b: int, h: int) -> Tensor:
        allowed = torch.isfinite(self._bias(b, h)).double()
        return allowed / allowed.sum(1, keepdim=True)

    def _plain_head(self, b: int, h: int) -> Tensor:
        def attention(row: int) -> Tensor:
            bias = None if self.mask is None else self._bias(row, h).to(self.q.dtype)
            scale = self._factor / float(self.wish.temperature[b, h])
            q, k, v = (x[None, None] for x in (self.q[row, h], self.k[row, h], self.v[b, h]))
            return scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)[0, 0]

        s, i, u = self._numbers(b, h)
        out = attention(b)
        if s:
            out = (1 - s) * out + s * attention(int(self.wish.rows[b]))
        out = (1 - i - u) * out
        if i:
            out = out + i * self.v[b, h]
        if u:
            out = out + u * (self._uniform(b, h).to(self.v.dtype) @ self.v[b, h])
        return float(self.wish.gate[b, h]) * out


@dataclass(frozen=True)
class Budget:
    """Errors against float64 in one norm: ours, plain torch's, and the rounding band."""

    norm: str
    ours: float
    plain: float
    band: float

    @property
    def share(self) -> float:
        """Our error as a share of what is allowed; above 1 is too much."""
        return self.ours / (2 * (self.plain + self.band) + 1e-300)


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: x.abs().max(),
    "rms": lambda x: x.square().mean().sqrt(),
}


def budgets(out: Tensor, case: Case) -> dict[str, list[Budget]]:
    """What is allowed and used: over everything, and for each row and head alone.

    The band is one rounding of the output in its dtype, and one of the scores in float32.
    """
    truth, plain, scores = case.true_output(), case.plain_output(), case.largest_scores()

    def measured(where: tuple[int, ...], largest: float) -> list[Budget]:
        found: list[Budget] = []
        for name, norm in NORMS.items():
            ours, theirs = (float(norm(x[where].double() - truth[where])) for x in (out, plain))
            spread = float(norm(case.v[where].double()))
            band = torch.finfo(out.dtype).eps / 2 * float(norm(truth[where]))
            found.append(Budget(name, ours, theirs, band + 2**-24 * largest * spread))
        return found

    each = {
        f"row {b} head {h}": measured((b, h), float(scores[b, h]))
        for b in range(out.shape[0])
        for h in range(out.shape[1])
    }
    return {"all rows and heads": measured((), float(scores.max()))} | each


def assert_as_good_as_torch(out: Tensor, case: Case) -> None:
    """error ≤ 2 × (error of plain torch + rounding), over everything and in each head alone."""
    assert out.shape == case.q.shape
    assert out.dtype == case.q.dtype
    assert torch.isfinite(out).all()
    wrong = {
        where: budget
        for where, found in budgets(out, case).items()
        for budget in found
        if budget.share > 1
    }
    assert not wrong, f"more than twice plain torch's error: {wrong}"
