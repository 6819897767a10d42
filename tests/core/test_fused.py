"""Attention that says its log-sum-exp, each way there is on a CPU, against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.attention import fused
from vdit_attention.vdit_core.attention.fused import attention_and_lse

B, H, LQ, LK, D = 2, 3, 63, 37, 16
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], tuple[Tensor, Tensor]]
WAYS: dict[str, Attend] = {
    "the kernel": attention_and_lse,
    "tiles": fused._in_tiles,  # pyright: ignore[reportPrivateUsage]
}
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float64: 1e-12}


def operands(dtype: torch.dtype, width: int = D) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = (LQ, D), (LK, D), (LK, width)
    q, k, v = (torch.randn(B, H, *s, generator=generator).to(dtype) for s in shapes)
    return q, k, v


def masks() -> dict[str, Tensor | None]:
    keys = torch.arange(LK)
    some = (keys < torch.tensor([20, LK])[:, None])[:, None, None]
    each = torch.rand(B, H, LQ, LK, generator=torch.Generator().manual_seed(4)) > 0.5
    return {
        "none": None,
        "bool": some,
        "−inf": torch.zeros(some.shape).masked_fill(~some, float("-inf")),
        "lowest": torch.zeros(some.shape).masked_fill(~some, torch.finfo(torch.float32).min),
        "per head and query": each | (keys == 0),
    }


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", masks())
@pytest.mark.parametrize("way", WAYS)
def test_both_are_those_of_plain_attention(way: str, kind: str, dtype: torch.dtype) -> None:
    q, k, v = operands(dtype)
    mask = masks()[kind]
    out, lse = WAYS[way](q, k, v, mask, 0.4)
    scores = 0.4 * q.double() @ k.double().mT
    if mask is not None:
        allowed = mask if mask.dtype == torch.bool else mask > -1
        scores = scores.masked_fill(~allowed, float("-inf"))
    wanted = scores.softmax(-1) @ v.double()
    assert out.dtype == dtype
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=TOLERANCE[dtype])
    small = {torch.float64: 1e-12, torch.float32: 5e-6}.get(dtype, 2e-4)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), rtol=0, atol=small)


@pytest.mark.parametrize("kind", ["bool", "−inf", "lowest"])
@pytest.mark.parametrize("way", WAYS)
def test_a_query_that_may_attend_nowhere_weighs_nothing(way: str, kind: str) -> None:
    q, k, v = operands(torch.float32)
    hidden = torch.zeros(B, 1, 1, LK, dtype=torch.bool)
    mask = {
        "bool": hidden,
        "−inf": torch.full(hidden.shape, float("-inf")),
        "lowest": torch.full(hidden.shape, torch.finfo(torch.float32).min),
    }[kind]
    out, lse = WAYS[way](q, k, v, mask, 0.4)
    assert bool((lse <= -1e29).all())
    assert bool(torch.isfinite(out).all())


def test_values_of_another_width() -> None:
    q, k, v = operands(torch.float32, 5)
    out, _ = attention_and_lse(q, k, v, None, 0.4)
    wanted = (0.4 * q.double() @ k.double().mT).softmax(-1) @ v.double()
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=2e-6)
