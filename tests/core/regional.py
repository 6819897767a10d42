"""Plans, grids and masks that the tests of video→video share."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from vdit_attention.tests.core.measured import padded
from vdit_attention.tests.oracle import Case, assert_as_good_as_torch, wish_of
from vdit_attention.vdit_core.attention import attend
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import (
    UNTOUCHED,
    AttentionPlan,
    MapMix,
    Source,
    Threshold,
)

B, HEADS, WIDTH = 3, 3, 16
GRIDS = {
    "text after": TokenGrid(2, 3, 5, suffix=11),
    "text before": TokenGrid(3, 1, 7, prefix=2),
    "both": TokenGrid(3, 5, 7, prefix=5, suffix=13),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Operands = tuple[Tensor, Tensor, Tensor]


def table(*rows: list[float]) -> Tensor:
    """[B, HEADS], the given rows repeated."""
    return torch.tensor([rows[b % len(rows)] for b in range(B)])


FIRST = torch.tensor([0, 0, 0])
INNER = {
    "temperature": AttentionPlan(temperature=table([0.3, 1, 2.5], [1, 1, 0.7], [1, 1, 1])),
    "temperature of all": AttentionPlan(temperature=table([0.6, 0.6, 0.6])),
    "source": AttentionPlan(source=Source(FIRST, table([0, 0, 0], [1, 0, 1], [1, 1, 1]))),
    "source in part": AttentionPlan(source=Source(FIRST, table([0, 0, 0], [0.4, 0, 1]))),
    "source crossed": AttentionPlan(source=Source(torch.tensor([2, 0, 1]), table([1, 0.5, 1]))),
    "identity": AttentionPlan(map=MapMix(table([1, 0, 0.3]), table([0, 0, 0]))),
    "uniform": AttentionPlan(map=MapMix(table([0, 0, 0]), table([0.25, 1, 0], [0, 0, 0.5]))),
    "mixture": AttentionPlan(map=MapMix(table([0.2, 0.5, 0]), table([0.3, 0.5, 1]))),
    "gate": AttentionPlan(gate=table([0, 1, 1], [0, 1, 0], [1, 0.5, 1])),
}
EVERYTHING = AttentionPlan(
    source=INNER["source in part"].source,
    temperature=INNER["temperature"].temperature,
    map=INNER["mixture"].map,
    gate=INNER["gate"].gate,
)
OUTER = AttentionPlan(
    source=Source(FIRST, table([0, 0, 0], [0, 1, 0])),
    temperature=table([1, 2, 0.5], [1.5, 1, 0.5]),  # times the inner ones exact in float32
    map=MapMix(table([0.1, 0, 0]), table([0, 0.3, 0])),
    gate=table([1, 1, 1], [1, 0.5, 1], [0, 1, 1]),
)
PLANS = {name: replace(UNTOUCHED, video=inner) for name, inner in INNER.items()} | {
    "everything inside": replace(UNTOUCHED, video=EVERYTHING),
    "temperature inside": replace(OUTER, video=INNER["temperature"]),
    "source inside": replace(OUTER, video=INNER["source in part"]),
    "gate inside": replace(OUTER, video=INNER["gate"]),
    "everything": replace(OUTER, video=EVERYTHING),
}
RATES = torch.tensor([[0.3, 0.0, 0.9], [0.5, 0.1, 0.0], [0.0, 0.0, 0.7]])
THINNED = {
    "alone": AttentionPlan(threshold=Threshold(RATES)),
    "not renormalised": AttentionPlan(threshold=Threshold(RATES, renormalize=False)),
    "with a source": replace(INNER["source"], threshold=Threshold(RATES)),
    "with a source in part": replace(INNER["source in part"], threshold=Threshold(RATES)),
    "with everything": replace(EVERYTHING, threshold=Threshold(RATES, renormalize=False)),
}
BESIDE = replace(OUTER, map=None, gate=None)


def operands(grid: TokenGrid, dtype: torch.dtype = torch.float32, seed: int = 0) -> Operands:
    generator = torch.Generator().manual_seed(seed)
    shape = B, HEADS, len(grid), WIDTH
    q, k, v = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    return 4 * q, k, v


def masks(grid: TokenGrid, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Padded text after the video in three ways, in row 0 all of it; and one for every query."""
    lengths = 0, grid.suffix // 2, grid.suffix
    found = {kind: padded(B, grid, lengths, kind) for kind in ("bool", "−inf", "lowest")}
    found = {kind: x if x.dtype == torch.bool else x.to(dtype) for kind, x in found.items()}
    generator = torch.Generator().manual_seed(7)
    keep = torch.rand(B, HEADS, len(grid), len(grid), generator=generator) > 0.4
    keep |= torch.eye(len(grid), dtype=torch.bool)
    found["bool per head and query"] = keep
    found["additive"] = torch.randn(B, 1, 1, len(grid), generator=generator)
    found["bool of all rows"] = keep[:1, :1]
    return found


def compare(
    plan: AttentionPlan,
    grid: TokenGrid,
    x: Operands,
    implementation: str,
    mask: Tensor | None = None,
) -> None:
    plan = plan.placed(grid.video)
    out = attend(*x, plan, mask=mask, implementation=implementation)
    assert_as_good_as_torch(out, Case(*x, wish_of(plan, B, HEADS), mask))


def thinned_case(inner: AttentionPlan, outer: AttentionPlan, grid: TokenGrid) -> Case:
    plan = replace(outer, video=inner).placed(grid.video)
    return Case(*operands(grid), wish_of(plan, B, HEADS))
