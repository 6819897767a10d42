"""Some heads of a call as the Triton kernels take them: where each finds its operands."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..plan import AttentionPlan
from .triton_kernels import INTERPRETED

DTYPES = torch.float16, torch.bfloat16, torch.float32
INSTEAD = "choose implementation='streaming' for it"


@dataclass(frozen=True)
class FoldedHeads:
    """n heads. rows, heads: [n] where q, k and mask are read. value_rows: [n] the same for v.

    factor: [n] multiplies the scores. mask: expanded to [B, H, Lq, Lk] without a copy, or None.
    """

    q: Tensor
    k: Tensor
    mask: Tensor | None
    rows: Tensor
    heads: Tensor
    value_rows: Tensor
    factor: Tensor

    def __len__(self) -> int:
        return len(self.heads)

    @property
    def queries(self) -> int:
        return self.q.shape[2]

    @property
    def keys(self) -> int:
        return self.k.shape[2]

    def __getitem__(self, part: slice) -> FoldedHeads:
        each = "rows", "heads", "value_rows", "factor"
        return replace(self, **{name: getattr(self, name)[part] for name in each})

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Zeros for each head, [n, *shape]."""
        return torch.zeros(len(self), *shape, dtype=dtype, device=self.q.device)

    def values(self, v: Tensor) -> Tensor:
        """[n, Lk, Dv]"""
        return v[self.value_rows, self.heads]


@dataclass(frozen=True)
class Rows:
    """What is known of each query, [n, Lq].

    top: largest score, 0 for a query that attends nowhere. total: Σ exp(score − top), 1 for such.
    allowed: keys that the mask lets through, int32. out: [n, Lq, Dv] float32.
    """

    top: Tensor
    total: Tensor
    allowed: Tensor
    entropy: Tensor | None
    out: Tensor | None

    @cached_property
    def log_total(self) -> Tensor:
        return self.total.log()

    @property
    def attends(self) -> Tensor:
        return self.allowed > 0

    @property
    def lse(self) -> Tensor:
        return (self.top + self.log_total).where(self.attends, -math.inf)

    @property
    def max_weight(self) -> Tensor:
        return self.attends / self.total  # the largest of a softmax is exp(0)


def fold(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    scale: float | None,
    plan: AttentionPlan,
    rows: Tensor,
    heads: Tensor,
) -> FoldedHeads:
    """The heads at rows [n] and heads [n]; temperature and full transfer cost nothing here."""
    _check(q, k, plan, rows, heads)
    factor = torch.full((len(heads),), q.shape[-1] ** -0.5 if scale is None else scale)
    if plan.temperature is not None:
        factor = factor / plan.temperature[rows, heads]
    own = rows
    if plan.source is not None:
        taken = plan.source.strength[rows, heads] == 1
        own = plan.source.rows[rows].where(taken, rows)
    if mask is not None:
        mask = mask.view(torch.uint8) if mask.dtype == torch.bool else mask
        mask = mask.expand(*q.shape[:3], k.shape[2])
    own, heads, rows = (x.to(q.device, torch.int64) for x in (own, heads, rows))
    return FoldedHeads(q, k, mask, own, heads, rows, factor.to(q.device, torch.float32))


def _check(q: Tensor, k: Tensor, plan: AttentionPlan, rows: Tensor, heads: Tensor) -> None:
    if q.device.type != "cuda" and not INTERPRETED:  # tests run the kernels in an interpreter
        raise RuntimeError(
            f"implementation: 'triton' needs q, k and v on a CUDA device, got {q.device}; move "
            "them there, or choose implementation='streaming'"
        )
    if q.dtype not in DTYPES or k.dtype != q.dtype:
        raise ValueError(
            "q, k: 'triton' takes both in float16, bfloat16 or float32, got "
            f"{q.dtype} and {k.dtype}; {INSTEAD}"
        )
    if plan.video is not None:
        raise ValueError(f"region: 'triton' has no plan for the video among itself; {INSTEAD}")
    if plan.source is not None:
        strength = plan.source.strength[rows, heads]
        if bool(((strength != 0) & (strength != 1)).any()):
            raise ValueError(
                f"source: 'triton' follows one in full or not at all, strength 1 or 0; {INSTEAD}"
            )
    mix = () if plan.map is None else (plan.map.identity, plan.map.uniform)
    if any(bool((weight[rows, heads] != 0).any()) for weight in mix):
        raise ValueError(f"map: 'triton' has softmax maps only, no identity or uniform; {INSTEAD}")


def check_values(q: Tensor, v: Tensor) -> None:
    """Raises ValueError unless v has the dtype of q, which the matrix products need."""
    if v.dtype != q.dtype:
        raise ValueError(f"v: 'triton' takes it in the dtype of q, {q.dtype}, got {v.dtype}")
