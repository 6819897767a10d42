"""Dense attention in float64 written from the formula alone, and the error budget of all tests.

    out = gate · M V,  M = (1 − w_I − w_U) · A + w_I · I + w_U · U,
    A = (1 − s) · P(own) + s · P(source),  P = softmax(c · Q Kᵀ / T + mask)

and where the video has a wish of its own: its queries' scores on its keys are divided by that T too
and are those of that source, one softmax over all keys, and what the video's keys receive is mixed
with I and U of the same mass and multiplied by that gate.

Nothing here comes from the engine: one row and one head at a time, whole maps, no shortcuts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from vdit_attention.vdit_core.plan import AttentionPlan


@dataclass(frozen=True)
class Wish:
    """What one attention call should do, every field [B, H] but rows [B].

    video: what the video, at `span`, should do among itself.
    """

    temperature: Tensor
    gate: Tensor
    identity: Tensor
    uniform: Tensor
    strength: Tensor
    rows: Tensor
    video: Wish | None = None
    span: slice = field(default_factory=lambda: slice(0))


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
    if plan.video is not None and plan.span is not None:
        wish = replace(wish, video=wish_of(plan.video, batch, heads), span=plan.span)
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

    def allowed(self, b: int, h: int) -> Tensor:
        """What the mask lets through, [Lq, Lk] bool."""
        return torch.isfinite(self._bias(b, h))

    def largest_scores(self) -> Tensor:
        """Largest |S / T| of each row and head, [B, H]."""

        def largest(b: int, h: int) -> float:
            found = [self._scores(r, b, h).abs().max() for r in (b, int(self.wish.rows[b]))]
            if (inner := self.wish.video) is not None:
                rows, span = (b, int(inner.rows[b])), self.wish.span
                blocks = [self._video_scores(r, b, h, inner) for r in rows]
                found += [block[:, span].abs().max() for block in blocks]
            return float(max(found))

        return torch.tensor([[largest(b, h) for h in self._heads] for b in self._rows])

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
        s, i, u = self._numbers(b, h)
        if self.wish.video is not None:
            attention = self._map_with_video(b, h, self.wish.video)
        else:
            own, source = (
                softmax(self._scores(row, b, h) + self._bias(row, h))
                for row in (b, int(self.wish.rows[b]))
            )
            attention = (1 - s) * own + s * source
        out = (1 - i - u) * attention + u * self._uniform(b, h)
        return out + i * torch.eye(*out.shape, dtype=torch.float64) if i else out

    def _map_with_video(self, b: int, h: int, inner: Wish) -> Tensor:
        span, s = self.wish.span, float(inner.strength[b, h])
        own, source = (
            softmax(self._joint_scores(row, b, h, inner)) for row in (None, int(inner.rows[b]))
        )
        out = (1 - s) * own + s * source
        received = out[span, span].sum(1, keepdim=True)
        i, u = float(inner.identity[b, h]), float(inner.uniform[b, h])
        allowed = self.allowed(b, h)[span, span].double()
        other = i * torch.eye(*allowed.shape) + u * allowed / allowed.sum(1, keepdim=True)
        mixed = (1 - i - u) * out[span, span] + received * other
        out[span, span] = float(inner.gate[b, h]) * mixed
        return out

    def _follows(self, b: int, h: int) -> int:
        """The row whose scores all tokens use."""
        return int(self.wish.rows[b]) if float(self.wish.strength[b, h]) == 1 else b

    def _joint_scores(self, row: int | None, b: int, h: int, inner: Wish) -> Tensor:
        """Scores, those of the video among itself of `row`, if given."""
        row_of_all, span = self._follows(b, h), self.wish.span
        scores = self._scores(row_of_all, b, h) + self._bias(row_of_all, h)
        row = row_of_all if row is None else row
        block = self._video_scores(row, b, h, inner) + self._bias(row, h)[span]
        scores[span, span] = block[:, span]
        return scores

    def _video_scores(self, row: int, b: int, h: int, inner: Wish) -> Tensor:
        """Scores of the video's queries on all keys at the video's own temperature."""
        return self._scores(row, b, h)[self.wish.span] / inner.temperature[b, h].double()

    def _uniform(self, b: int, h: int) -> Tensor:
        allowed = self.allowed(b, h).double()
        return allowed / allowed.sum(1, keepdim=True)

    def _plain_head(self, b: int, h: int) -> Tensor:
        s, i, u = self._numbers(b, h)
        scale = self._factor / float(self.wish.temperature[b, h])
        if self.wish.video is not None:
            out = self._plain_with_video(b, h, self.wish.video)
        else:
            out = self._plain_attention(b, b, h, scale)
            if s:
                other = self._plain_attention(int(self.wish.rows[b]), b, h, scale)
                out = (1 - s) * out + s * other
        out = (1 - i - u) * out
        if i:
            out = out + i * self.v[b, h]
        if u:
            out = out + u * (self._uniform(b, h).to(self.v.dtype) @ self.v[b, h])
        return float(self.wish.gate[b, h]) * out

    def _plain_attention(
        self, row: int, b: int, h: int, scale: float, span: slice | None = None
    ) -> Tensor:
        """Scores of `row` on the values of row b; of the video among itself if it has a span."""
        at = slice(None) if span is None else span
        bias = None if self.mask is None else self._bias(row, h)[at, at].to(self.q.dtype)
        q, k, v = (x[None, None, at] for x in (self.q[row, h], self.k[row, h], self.v[b, h]))
        return scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)[0, 0]

    def _plain_with_video(self, b: int, h: int, inner: Wish) -> Tensor:
        """Attention of the video among itself and to the rest, put together in float32."""
        row, span = self._follows(b, h), self.wish.span
        scale = self._factor / float(self.wish.temperature[b, h])
        out = self._plain_attention(row, b, h, scale)
        s, i, u = (float(x[b, h]) for x in (inner.strength, inner.identity, inner.uniform))
        allowed = self.allowed(b, h)[span, span].to(self.v.dtype)
        video = torch.zeros_like(out[span], dtype=torch.float32)
        values = self.v[b, h, span]
        for share, one in ((1 - s, row), (s, int(inner.rows[b]))):
            narrow = scale / float(inner.temperature[b, h])
            block = self._plain_attention(one, b, h, narrow, span)
            mixed = (1 - i - u) * block + i * values
            mixed = mixed + u * ((allowed / allowed.sum(1, keepdim=True)) @ values)
            others, w = self._plain_others(row, b, h, scale), self._received(one, b, h, inner)
            video += share * (w * float(inner.gate[b, h]) * mixed + (1 - w) * others)
        return torch.cat([out[: span.start], video.to(out.dtype), out[span.stop :]])

    def _plain_others(self, row: int, b: int, h: int, scale: float) -> Tensor:
        """Attention of the video's queries to all keys but the video's."""
        span = self.wish.span
        bias = self._bias(row, h)[span].clone()
        bias[:, span] = float("-inf")
        q, k, v = (x[None, None] for x in (self.q[row, h, span], self.k[row, h], self.v[b, h]))
        bias = bias.to(self.q.dtype)
        out = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)[0, 0]
        return out.nan_to_num(0)

    def _received(self, row: int, b: int, h: int, inner: Wish) -> Tensor:
        """The mass of each video query on the video, from float32 scores, [Lv, 1]."""
        weights = softmax(self._joint_scores(row, b, h, inner).float())
        return weights[self.wish.span, self.wish.span].sum(1, keepdim=True)


def softmax(scores: Tensor) -> Tensor:
    e = torch.exp(scores - scores.max(1, keepdim=True).values)
    return e / e.sum(1, keepdim=True)


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
