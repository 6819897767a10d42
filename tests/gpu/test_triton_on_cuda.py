"""On a GPU: the compiled Triton kernels at sizes with many blocks, against float64 maps."""

from __future__ import annotations

import pytest
import torch
from vdit_attention.tests.triton_checks import check_attend, check_measures, operands
from vdit_attention.vdit_core.attention import measure
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import AttentionPlan, Source, Threshold

pytestmark = pytest.mark.gpu

DTYPES = torch.float32, torch.bfloat16, torch.float16
GRID = TokenGrid(5, 9, 11, prefix=13, suffix=1)  # 509 tokens
ASKED = {"spans": {"text": slice(0, 13)}, "tau": 0.1, "rate": 0.7, "map_size": 20}
B, H = 3, 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [32, 64, 96, 128])
def test_every_measure(width: int, dtype: torch.dtype) -> None:
    check_measures(operands("plain", (B, H, len(GRID), width), dtype), grid=GRID, **ASKED)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["peaked", "flat", "one key", "ties"])
def test_maps_of_every_kind(kind: str, dtype: torch.dtype) -> None:
    check_measures(operands(kind, (1, H, len(GRID), 64), dtype), grid=GRID, **ASKED)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masks_and_plans(dtype: torch.dtype) -> None:
    length = len(GRID)
    padded = torch.arange(length) < torch.tensor([length, length - 99, 70])[:, None]
    keep = torch.rand(B, H, length, length, generator=torch.Generator().manual_seed(2)) > 0.4
    plan = AttentionPlan(
        source=Source(torch.tensor([0, 0, 1]), torch.tensor([[0.0, 1], [1, 0], [0, 0]])),
        temperature=torch.tensor([[0.5, 1], [2, 1], [1, 0.7]]),
    )
    x = operands("plain", (B, H, length, 64), dtype)
    for mask in (padded[:, None, None], keep, torch.where(keep[:1, :1], 0.0, -torch.inf).to(dtype)):
        check_measures(x, grid=GRID, plan=plan, mask=mask.cuda(), **ASKED)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("width", [32, 64, 96, 128])
def test_attend(width: int, renormalize: bool, dtype: torch.dtype) -> None:
    rate = torch.tensor([[0.0, 0.5]]).expand(B, H)
    plan = AttentionPlan(threshold=Threshold(rate, renormalize), gate=torch.tensor([[1, 2.0]] * B))
    check_attend(operands("plain", (B, H, len(GRID), width), dtype), plan)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_answer_twice(dtype: torch.dtype) -> None:
    x = operands("plain", (B, H, len(GRID), 64), dtype)
    first, second = (measure(*x, grid=GRID, **ASKED, implementation="triton") for _ in range(2))
    for name in ("lse", "entropy", "threshold", "realised_rate", "mass_lost", "keys_for_95"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
