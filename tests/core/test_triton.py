"""The Triton kernels against float64 maps: in triton's interpreter, or on a GPU if there is one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from vdit_attention.tests.interpreted import mend
from vdit_attention.tests.triton_checks import DEVICE, check_attend, check_measures, operands
from vdit_attention.vdit_core.attention import (
    Thinning,
    attend,
    measure,
    triton_heads,
    triton_kernels,
    triton_measures,
)
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import AttentionPlan, Blocks, MapMix, Source, Threshold

mend()

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
SIZES = (  # grid, head width, dtype, size of the pooled map
    (TokenGrid(1, 1, 1), 32, FP32, 4),
    (TokenGrid(2, 1, 1), 64, BF16, 4),
    (TokenGrid(7, 3, 3), 96, FP16, 5),  # more frames than bins
    (TokenGrid(3, 3, 7, prefix=1, suffix=1), 128, BF16, 12),
    (TokenGrid(3, 5, 7, prefix=13, suffix=9), 64, FP32, 9),
)
EVERY = {"spans": {"text": slice(0, 1)}, "tau": 0.1, "rate": 0.7}


@pytest.mark.parametrize("grid, width, dtype, size", SIZES, ids=lambda x: str(x))
def test_every_measure_at_every_size(
    grid: TokenGrid, width: int, dtype: torch.dtype, size: int
) -> None:
    x = operands("plain", (1, 2, len(grid), width), dtype)
    check_measures(x, grid=grid, map_size=size, **EVERY)


@pytest.mark.parametrize(
    "kind, dtype",
    [("peaked", BF16), ("flat", FP32), ("one key", FP16), ("ties", FP32), ("peaked", FP32)],
)
def test_maps_of_every_kind(kind: str, dtype: torch.dtype) -> None:
    x = operands(kind, (1, 1, 65, 32), dtype)
    check_measures(x, grid=TokenGrid(3, 3, 7, prefix=2), map_size=9, **EVERY)


def masks(length: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    keep = torch.rand(3, 2, length, length, generator=generator) > 0.4
    keep[0, 0, 3] = False  # this query attends nowhere
    padded = torch.arange(length) < torch.tensor([length, length - 9, length - 20])[:, None]
    bias = torch.randn(3, 1, 1, length, generator=generator)
    return {
        "padded text": padded[:, None, None],
        "bool per head and query": keep,
        "additive per key": bias.where(padded[:, None, None], -torch.inf),
        "additive smallest": torch.where(keep[:1, :1], 0.0, torch.finfo(BF16).min).to(BF16),
    }


@pytest.mark.parametrize("kind", masks(63))
def test_masks_stay_in_force(kind: str) -> None:
    x = operands("plain", (3, 1 if "key" in kind else 2, 63, 32), FP32)
    mask = masks(63)[kind].to(DEVICE)
    check_measures(x, grid=TokenGrid(3, 3, 5, suffix=18), map_size=9, mask=mask, **EVERY)


def test_a_mask_that_lets_nothing_through() -> None:
    x = operands("plain", (1, 1, 9, 32), FP32)
    mask = torch.zeros(1, 1, 9, 9, dtype=torch.bool, device=DEVICE)
    wants = "out", "lse", "entropy", "max_weight", "column_sums", "threshold", "mass_lost"
    found, expected = (
        measure(*x, wants=wants, mask=mask, implementation=which)
        for which in ("triton", "streaming")
    )
    for name in wants:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), msg=name)


def test_temperature_transfer_scale_rows_and_heads() -> None:
    x = operands("plain", (3, 3, 33, 32), FP32)
    plan = AttentionPlan(
        source=Source(torch.tensor([0, 0, 1]), torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 0, 1]])),
        temperature=torch.tensor([[0.5, 1, 2], [1, 1, 0.7], [3, 0.4, 1]]),
    )
    mask = (torch.rand(3, 3, 33, 33, generator=torch.Generator().manual_seed(1)) > 0.3).to(DEVICE)
    chosen = {"rows": [2, 1], "heads": torch.tensor([2, 0])}
    check_measures(x, plan=plan, mask=mask, scale=0.3, **chosen)


def test_more_keys_than_queries_without_a_grid() -> None:
    x = operands("plain", (1, 2, 21, 32), BF16, keys=65)
    check_measures(x, spans={"text": slice(5, 12)})


def test_a_window_of_the_map() -> None:
    grid = TokenGrid(4, 3, 3, prefix=2)
    x = operands("plain", (1, 1, len(grid), 32), FP32)
    asked = "pooled_map", "other_mass", "frame_distance_mass", "frame_mass"
    found, expected = (
        measure(*x, grid=grid, wants=asked, window=(1, 2), map_size=5, implementation=which)
        for which in ("triton", "reference")
    )
    for name in asked:
        torch.testing.assert_close(
            getattr(found, name).float(), getattr(expected, name), rtol=1e-5, atol=1e-7
        )


def test_groups_of_heads_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = TokenGrid(2, 3, 3)
    x = operands("plain", (1, 2, len(grid), 32), FP32)
    whole = measure(*x, grid=grid, implementation="triton")
    monkeypatch.setattr(triton_measures, "GROUP_BYTES", 1)
    for name, value in vars(measure(*x, grid=grid, implementation="triton")).items():
        assert value is None or torch.equal(value, getattr(whole, name)), name


RATES = torch.tensor([[0.0, 0.5], [0.9, 0.99]])
PLANS = {
    "nothing": AttentionPlan(),
    "temperature and gate": AttentionPlan(
        temperature=torch.tensor([[0.5, 2], [1, 1]]), gate=torch.tensor([[0.0, 1], [0.5, 1]])
    ),
    "threshold": AttentionPlan(threshold=Threshold(RATES)),
    "threshold, not renormalised": AttentionPlan(threshold=Threshold(RATES, renormalize=False)),
    "threshold given": AttentionPlan(
        threshold=Threshold(RATES, weights=torch.tensor([[0.3, 0.02], [0.03, 0.9]]))
    ),
    "threshold of a source": AttentionPlan(
        source=Source(torch.tensor([0, 0]), torch.tensor([[0.0, 0], [1, 1]])),
        threshold=Threshold(RATES),
        gate=torch.tensor([[1.0, 1], [0, 2]]),
    ),
}


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16], ids=str)
@pytest.mark.parametrize("name", PLANS)
def test_attend_errs_at_most_twice_as_much_as_torch(name: str, dtype: torch.dtype) -> None:
    check_attend(operands("plain", (2, 2, 65, 32), dtype), PLANS[name])


@pytest.mark.parametrize("length, width", [(1, 32), (2, 64), (63, 96), (127, 128)])
def test_attend_at_every_size(length: int, width: int) -> None:
    plan = AttentionPlan(threshold=Threshold(torch.tensor([[0.6]])))
    check_attend(operands("plain", (1, 1, length, width), BF16), plan)


@pytest.mark.parametrize("kind", ["peaked", "flat", "one key"])
def test_attend_on_maps_of_every_kind(kind: str) -> None:
    plan = AttentionPlan(threshold=Threshold(torch.tensor([[0.6]])))
    check_attend(operands(kind, (1, 1, 65, 32), FP32), plan)


@pytest.mark.parametrize("kind", masks(63))
def test_attend_with_masks(kind: str) -> None:
    plan = AttentionPlan(threshold=Threshold(torch.tensor([[0.0, 0.5]]).expand(3, 2)))
    check_attend(operands("plain", (3, 2, 63, 32), FP32), plan, masks(63)[kind].to(DEVICE))


def test_attend_reports_what_the_dense_path_reports() -> None:
    x = operands("plain", (2, 2, 65, 32), FP32)
    told: list[Thinning] = []
    for which in ("triton", "dense"):
        attend(*x, PLANS["threshold"], implementation=which, report=told.append)
    for name, value in vars(told[0]).items():
        torch.testing.assert_close(value, getattr(told[1], name), rtol=1e-5, atol=1e-7)


ONE = torch.ones(1, 1)
HALF = AttentionPlan(source=Source(torch.tensor([0]), 0.5 * ONE))
MIXED = AttentionPlan(map=MapMix(0.5 * ONE, 0 * ONE))


OF_VIDEO = AttentionPlan(video=AttentionPlan(temperature=0.5 * ONE)).placed(slice(1, 4))


@pytest.mark.parametrize("plan, field", [(HALF, "source"), (MIXED, "map"), (OF_VIDEO, "region")])
def test_a_plan_that_cannot_be_folded_is_an_error(plan: AttentionPlan, field: str) -> None:
    x = operands("plain", (1, 1, 5, 32), FP32)
    for run in (
        lambda: measure(*x, plan=plan, implementation="triton"),
        lambda: attend(*x, plan, implementation="triton"),
    ):
        with pytest.raises(ValueError, match=rf"{field}: .*implementation='streaming'"):
            run()


def test_thresholds_blocks_and_dtypes_it_does_not_take_are_errors() -> None:
    x = operands("plain", (1, 1, 5, 32), FP32)
    thin = AttentionPlan(threshold=Threshold(0.5 * ONE))
    with pytest.raises(ValueError, match=r"threshold: .*implementation='streaming'"):
        measure(*x, plan=thin, implementation="triton")
    with pytest.raises(ValueError, match="not blocks"):
        attend(
            *x,
            AttentionPlan(threshold=Threshold(0.5 * ONE, blocks=Blocks())),
            implementation="triton",
        )
    with pytest.raises(ValueError, match=r"float64.*implementation='streaming'"):
        measure(*(part.double() for part in x), wants="lse", implementation="triton")
    with pytest.raises(ValueError, match=r"v: .*float16"):
        attend(*x[:2], x[2].half(), AttentionPlan(), implementation="triton")


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU to compile for")
def test_every_kernel_compiles_for_an_h100(pytestconfig: pytest.Config) -> None:
    cache = {"TRITON_CACHE_DIR": str(pytestconfig.cache.mkdir("triton"))}
    answer = subprocess.run(
        [sys.executable, "-m", "vdit_attention.tests.compile_kernels"],
        env={**os.environ, **cache, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    compiled = {line.split(":")[0] for line in answer.stdout.splitlines()}
    assert compiled == {name for name in vars(triton_kernels) if name.endswith("_kernel")}


@pytest.mark.skipif(DEVICE == "cuda", reason="tensors are on a GPU")
def test_a_cpu_without_the_interpreter_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    x = operands("plain", (1, 1, 5, 32), FP32)
    monkeypatch.setattr(triton_heads, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match="needs q, k and v on a CUDA device, got cpu"):
        measure(*x, implementation="triton")


def test_no_triton_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    x = operands("plain", (1, 1, 5, 32), FP32)
    monkeypatch.setitem(sys.modules, "triton", None)
    for module in [name for name in sys.modules if ".vdit_core.attention.triton_" in name]:
        monkeypatch.delitem(sys.modules, module)
    for run in (
        lambda: measure(*x, implementation="triton"),
        lambda: attend(*x, AttentionPlan(), implementation="triton"),
    ):
        with pytest.raises(RuntimeError, match="package triton cannot be imported"):
            run()
