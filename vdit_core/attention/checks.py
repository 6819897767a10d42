"""What every implementation may rely on: shapes that fit, equal heads, finite numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan import AttentionPlan, Blend


def check_operands(q: Tensor, k: Tensor, v: Tensor | None) -> None:
    """q [B, H, Lq, D], k [B, H, Lk, D], v [B, H, Lk, Dv]. Raises ValueError with their shapes."""
    others = [x for x in (k, v) if x is not None]
    fits = (
        q.ndim == 4
        and all(x.ndim == 4 and x.shape[:2] == q.shape[:2] for x in others)
        and k.shape[3] == q.shape[3]
        and (v is None or v.shape[2] == k.shape[2])
    )
    if not fits or 0 in q.shape or 0 in k.shape:
        got = ", ".join(str(tuple(x.shape)) for x in (q, *others))
        raise ValueError(
            "q, k, v: must be [B, H, L, D] with the same B and H and at least one token, k and v "
            f"with equal L, got {got}"
        )


def check_mask(mask: Tensor | None, q: Tensor, k: Tensor) -> None:
    """Raises ValueError unless the mask broadcasts to [B, H, Lq, Lk]."""
    if mask is None:
        return
    wanted = (*q.shape[:3], k.shape[2])
    fits = mask.ndim == 4 and all(n in (1, w) for n, w in zip(mask.shape, wanted, strict=True))
    if not fits or mask.shape[3] != wanted[3]:
        raise ValueError(f"mask: must broadcast to {wanted}, got {tuple(mask.shape)}")


def check_region(plan: AttentionPlan, q: Tensor, k: Tensor) -> None:
    """Raises ValueError for a plan of the video among itself that cannot be carried out."""
    if plan.video is None:
        return
    span, length = plan.span, q.shape[2]
    fits = span is not None and 0 <= span.start < span.stop <= length == k.shape[2]
    if span is None or not fits or span.stop - span.start == length:
        raise ValueError(
            f"region: video→video needs video and other tokens in one sequence, got {length} "
            f"queries, {k.shape[2]} keys and video tokens at {span} (see AttentionPlan.placed)"
        )
    if plan.threshold is not None:
        raise ValueError("region: sparsity in all cannot be combined with edits in video→video")
    if plan.source is not None and bool((plan.source.strength % 1 != 0).any()):
        raise ValueError(
            "region: a transfer in part in all cannot be combined with edits in video→video"
        )


def check_blend(blend: Blend, q: Tensor) -> None:
    """Raises ValueError unless the blend holds a share in 0..1 for each query."""
    got = tuple(blend.own.shape)
    if got != (q.shape[2],):
        raise ValueError(f"blend: must hold one share for each of {q.shape[2]} queries, got {got}")
    if not bool(((blend.own >= 0) & (blend.own <= 1)).all()):
        raise ValueError("blend: its shares must lie in 0 to 1")


def check_finite(**tensors: Tensor | None) -> None:
    """Raises ValueError naming the tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor is not None and not bool(finite(tensor)):
            raise ValueError(f"{name}: holds NaN or infinity; attention has no meaning there")


def finite(tensor: Tensor) -> Tensor:
    """Whether no number is NaN or infinite, [] bool; either would show in the extremes."""
    return torch.stack(torch.aminmax(tensor)).isfinite().all()


def grouped(x: Tensor, q: Tensor) -> Tensor:
    """Repeat key heads that serve several query heads, [B, H, L, D]."""
    if x.ndim != 4 or x.shape[1] == q.shape[1] or q.shape[1] % x.shape[1]:
        return x
    return x.repeat_interleave(q.shape[1] // x.shape[1], 1)
