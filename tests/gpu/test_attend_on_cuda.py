"""On a GPU: every path of `attend` in the GPU's dtypes, against the dense reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from vdit_attention.vdit_core.attention import attend
from vdit_attention.vdit_core.attention.fused import attention_and_lse
from vdit_attention.vdit_core.attention.reference import reference_attend
from vdit_attention.vdit_core.plan import AttentionPlan, Blocks, MapMix, Source, Threshold

pytestmark = pytest.mark.gpu

B, H, L, D = 4, 3, 509, 64


def operands(
    dtype: torch.dtype, width: int = D, tokens: int = L
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator("cuda").manual_seed(1)
    q, k, v = (
        torch.randn(B, H, tokens, width, device="cuda", generator=generator).to(dtype)
        for _ in range(3)
    )
    return q, k, v


def plans() -> dict[str, AttentionPlan]:
    one = torch.ones(B, H)
    rows = torch.tensor([0, 0, 2, 2])
    return {
        "temperature": AttentionPlan(temperature=0.7 * one),
        "source": AttentionPlan(source=Source(rows, one)),
        "source in part": AttentionPlan(source=Source(rows, 0.4 * one)),
        "mixture": AttentionPlan(map=MapMix(0.2 * one, 0.3 * one)),
        "gate": AttentionPlan(gate=torch.tensor([1.0, 0, 1]).expand(B, H)),
    }


def of_the_video() -> dict[str, AttentionPlan]:
    """The same for the video among itself, between 13 tokens of text and 1."""
    return {
        name: AttentionPlan(video=plan).placed(slice(13, L - 1)) for name, plan in plans().items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("implementation", ["dense", "streaming"])
@pytest.mark.parametrize("name", plans())
def test_error_is_at_most_twice_that_of_torch(
    name: str, implementation: str, dtype: torch.dtype
) -> None:
    q, k, v = operands(dtype)
    wide = q.double(), k.double(), v.double()
    plan = plans()[name]
    exact = reference_attend(*wide, plan)
    torch_error = scaled_dot_product_attention(q, k, v) - reference_attend(*wide, AttentionPlan())
    band = torch.finfo(dtype).eps * exact.abs().max()
    error = (attend(q, k, v, plan, implementation=implementation) - exact).abs().max()
    assert error <= 2 * (torch_error.abs().max() + band)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("implementation", ["dense", "streaming"])
@pytest.mark.parametrize("name", plans())
def test_the_video_among_itself(
    name: str, implementation: str, padded: bool, dtype: torch.dtype
) -> None:
    """Padded: row 0 sees no text at all, as far as it comes before the video."""
    q, k, v = operands(dtype)
    plan, mask = of_the_video()[name], None
    if padded:
        first = torch.tensor([13, 5, 0, 0])[:, None]
        mask = (torch.arange(L) >= first)[:, None, None].cuda()
    wide = q.double(), k.double(), v.double()
    exact = reference_attend(*wide, plan, mask=mask)
    plain = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch_error = plain - reference_attend(*wide, AttentionPlan(), mask=mask)
    band = torch.finfo(dtype).eps * exact.abs().max()
    found = attend(q, k, v, plan, mask=mask, implementation=implementation)
    assert (found - exact).abs().max() <= 2 * (torch_error.abs().max() + band)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("width", [20, 64, 96, 128, 256])
@pytest.mark.parametrize("hiding", [False, True])
def test_attention_says_its_log_sum_exp(hiding: bool, width: int, dtype: torch.dtype) -> None:
    """20 is no multiple of 8 and a mask suits no kernel: both go in tiles."""
    q, k, v = operands(dtype, width)
    scores = 0.1 * q.double() @ k.double().mT
    mask = None
    if hiding:
        mask = (torch.arange(L) < 100)[None, None, None].cuda()
        scores = scores.masked_fill(~mask, float("-inf"))
    out, lse = attention_and_lse(q, k, v, mask, 0.1)
    assert lse.shape == q.shape[:3]
    close = 8 * torch.finfo(dtype).eps if dtype != torch.float32 else 2e-3  # TF32, if it is on
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), rtol=0, atol=1e-2)
    torch.testing.assert_close(out.double(), scores.softmax(-1) @ v.double(), rtol=0, atol=close)


@pytest.mark.parametrize("length", [509, 1024])
def test_blocks_of_the_video_are_left_out(length: int) -> None:
    q, k, v = operands(torch.bfloat16, tokens=length + 14)
    count = -(-length // 64)
    kept = torch.rand(B, H, count, count) > 0.5
    kept[..., 0] = True
    inner = AttentionPlan(
        threshold=Threshold(torch.full((B, H), 0.5), blocks=Blocks(64, kept=kept))
    )
    plan = AttentionPlan(video=inner).placed(slice(13, length + 13))
    exact = reference_attend(q.double(), k.double(), v.double(), plan)
    error = (attend(q, k, v, plan) - exact).abs().max()
    assert error <= 4 * torch.finfo(torch.bfloat16).eps * exact.abs().max()


@pytest.mark.parametrize("length", [509, 1024])
def test_blocks_that_that_are_left_out_get_no_weight(length: int) -> None:
    generator = torch.Generator("cuda").manual_seed(1)
    q, k, v = (
        torch.randn(1, H, length, D, device="cuda", generator=generator).bfloat16()
        for _ in range(3)
    )
    count = -(-length // 64)
    kept = torch.rand(1, H, count, count) > 0.5
    kept[..., 0] = True
    plan = AttentionPlan(threshold=Threshold(torch.full((1, H), 0.5), blocks=Blocks(64, kept=kept)))
    exact = reference_attend(q.double(), k.double(), v.double(), plan)
    error = (attend(q, k, v, plan) - exact).abs().max()
    assert error <= 4 * torch.finfo(torch.bfloat16).eps * exact.abs().max()
