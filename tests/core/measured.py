"""Scenes to measure, every statistic of theirs from plain float64 loops, and the comparison."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from vdit_attention.tests import statistics
from vdit_attention.tests.oracle import Case, wish_of
from vdit_attention.vdit_core.attention import Measures, measure
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import UNTOUCHED, AttentionPlan

IMPLEMENTATIONS = ["streaming", "reference"]
TAU, RATE = 0.3, 0.7
HEADS = 3


@dataclass(frozen=True)
class Scene:
    """q, k, v [B, H, L, D], the video's grid, and where the text lies, if anywhere."""

    q: Tensor
    k: Tensor
    v: Tensor
    grid: TokenGrid
    text: slice | None = None
    mask: Tensor | None = None
    plan: AttentionPlan = UNTOUCHED

    def measured(self, implementation: str = "streaming", **options: object) -> Measures:
        wanted: dict[str, object] = {"tau": TAU, "rate": RATE, "map_size": 10} | options
        spans = None if self.text is None else {"text": self.text}
        q, k, v = self.q, self.k, self.v
        if implementation == "reference":
            q, k, v = q.double(), k.double(), v.double()
        return measure(
            q,
            k,
            v,
            grid=self.grid,
            spans=spans,
            mask=self.mask,
            plan=self.plan,
            implementation=implementation,
            **wanted,  # pyright: ignore[reportArgumentType]
        )

    def expected(self, b: int, h: int) -> dict[str, Tensor]:
        """All statistics of one head from its dense map."""
        weights = self.true_maps()[b, h].nan_to_num(0)
        allowed = self.allowed(b, h)
        grid, tokens = self.grid, list(range(self.grid.video.start, self.grid.video.stop))
        place = statistics.Place(grid.frames, grid.rows, grid.cols, grid.prefix)
        found = statistics.of_rows(weights) | statistics.of_columns(weights, self.v[b, h], TAU)
        found |= statistics.of_sizes(weights, allowed, RATE)
        found |= statistics.of_places(weights, place)
        found |= statistics.pooled(weights, tokens, grid.bins(10).tolist())
        out = weights @ self.v[b, h].double()
        found |= {"out": out, "energy": out.square().sum()}
        if self.text is not None:
            found["text_mass"] = weights[tokens][:, self.text].mean(0)
            found["text_own_mass"] = weights[self.text, self.text].mean(0)
        return found

    def true_maps(self) -> Tensor:
        """Gates are no part of the map."""
        wish = wish_of(self.plan.ungated, *self.q.shape[:2])
        return Case(self.q, self.k, self.v, wish, self.mask).true_maps()

    def allowed(self, b: int, h: int) -> Tensor:
        shape = (*self.q.shape[:3], self.k.shape[2])
        if self.mask is None:
            return torch.ones(shape[2:], dtype=torch.bool)
        mask = self.mask.expand(shape)[b, h]
        return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def scene(
    grid: TokenGrid,
    *,
    scale: float = 2.0,
    width: int = 16,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    seed: int = 3,
    text: slice | None = None,
    mask: Tensor | None = None,
    plan: AttentionPlan | None = None,
) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    shape = batch, HEADS, len(grid), width
    q, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    q, k, v = (x.to(dtype) for x in (scale * q, k, v))
    return Scene(q, k, v, grid, text, mask, plan or UNTOUCHED)


def check(found: Measures, wanted: Scene, **tolerance: float) -> None:
    """Each field of each head: within float32 rounding of the truth."""
    loose = {"rtol": 1e-4, "atol": 1e-6} | tolerance
    for b in range(wanted.q.shape[0]):
        for h in range(wanted.q.shape[1]):
            for name, truth in wanted.expected(b, h).items():
                value = getattr(found, name)
                assert value is not None, name
                own = dict(loose)
                if name in ("realised_rate", "coverage", "keys_for_95", "mass_curve"):
                    own["atol"] = 1.5 / len(wanted.grid)  # one entry of a row, or a near tie
                if name == "out":
                    own["rtol"] = max(loose["rtol"], torch.finfo(value.dtype).eps)
                if name == "coverage_key" and float(found["coverage"][b, h]) == 0:
                    continue
                torch.testing.assert_close(
                    value[b, h].double(), truth.double(), msg=lambda m, n=name: f"{n}: {m}", **own
                )


def padded(batch: int, grid: TokenGrid, lengths: tuple[int, ...], kind: str) -> Tensor:
    """Text of different lengths at the end of the keys: bool, or additive numbers."""
    keys = torch.arange(len(grid))
    mask = torch.stack([keys < grid.video.stop + n for n in lengths])[:, None, None]
    if kind == "bool":
        return mask
    lowest = float("-inf") if kind == "−inf" else torch.finfo(torch.bfloat16).min
    return torch.zeros(mask.shape, dtype=torch.bfloat16).masked_fill(~mask, lowest)
