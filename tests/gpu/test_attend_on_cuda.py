"""On a GPU: every path of `attend` in the GPU's dtypes, against the dense reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from vdit_attention.vdit_core.attention import attend
from vdit_attention.vdit_core.attention.reference import reference_attend
from vdit_attention.vdit_core.plan import AttentionPlan, Blocks, MapMix, Source, Threshold

pytestmark = pytest.mark.gpu

B, H, L, D = 4, 3, 509, 64


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("implementation", ["dense", "streaming"])
@pytest.mark.parametrize("name", plans())
def test_error_is_at_most_twice_that_of_torch(
    name: str, implementation: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator("cuda").manual_seed(1)
    q, k, v = (
        torch.randn(B, H, L, D, device="cuda", generator=generator).to(dtype) for _ in range(3)
    )
    wide = q.double(), k.double(), v.double()
    plan = plans()[name]
    exact = reference_attend(*wide, plan)
    torch_error = scaled_dot_product_attention(q, k, v) - reference_attend(*wide, AttentionPlan())
    band = torch.finfo(dtype).eps * exact.abs().max()
    error = (attend(q, k, v, plan, implementation=implementation) - exact).abs().max()
    assert error <= 2 * (torch_error.abs().max() + band)


@pytest.mark.parametrize("length", [509, 1024])
def test_blocks_that_are_left_out_get_no_weight(length: int) -> None:
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
