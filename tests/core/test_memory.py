"""Capture and transfer of 8,192 tokens never hold a table of queries × keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from vdit_attention.vdit_core.attention import attend, measure
from vdit_attention.vdit_core.attention.reference import reference_attend
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import AttentionPlan, MapMix, Source

TOKENS = 8192
TABLE = TOKENS * TOKENS  # numbers in one head's map, 268 MB in float32
GRID = TokenGrid(8, 32, 32)
PLAN = AttentionPlan(
    source=Source(torch.tensor([0, 0]), torch.tensor([[0.0], [1.0]])),
    temperature=torch.tensor([[1.0], [0.7]]),
)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor any operation gave back."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.numbers = max(self.numbers, leaf.untyped_storage().nbytes() // leaf.itemsize)
        return out


def largest(work: Callable[[], object]) -> int:
    """Numbers in the largest tensor that appeared."""
    with Largest() as mode:
        work()
    return mode.numbers


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes held at once beyond those held before, also inside torch's own kernels."""
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        work()
    held, most = 0, 0
    for event in profiler.profiler.kineto_results.events():  # pyright: ignore
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def operands(tokens: int = TOKENS) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 1, tokens, 16, generator=generator) for _ in range(3))
    return q, k, v


def capture() -> object:
    q, k, _ = operands()
    return measure(q, k, grid=GRID, plan=PLAN, rows=[1], map_size=64)


def transfer() -> object:
    return attend(*operands(), PLAN)


def transfer_in_part() -> object:
    plan = AttentionPlan(source=Source(torch.tensor([0, 0]), torch.tensor([[0.0], [0.5]])))
    return attend(*operands(), plan)


def mixture() -> object:
    half = torch.full((2, 1), 0.25)
    return attend(*operands(), AttentionPlan(map=MapMix(half, half)))


JOINT = TokenGrid(7, 32, 32, prefix=24, suffix=1000)
IN_JOINT = AttentionPlan(video=PLAN).placed(JOINT.video)


def transfer_of_the_video() -> object:
    return attend(*operands(), IN_JOINT)


def capture_in_joint_attention() -> object:
    q, k, _ = operands()
    return measure(q, k, grid=JOINT, plan=IN_JOINT, rows=[1], map_size=64)


@pytest.mark.parametrize(
    "work",
    [
        capture,
        transfer,
        transfer_in_part,
        mixture,
        transfer_of_the_video,
        capture_in_joint_attention,
    ],
)
def test_no_tensor_as_large_as_a_map_appears(work: Callable[[], object]) -> None:
    assert largest(work) < TABLE / 8


@pytest.mark.parametrize(
    "work", [capture, transfer, transfer_of_the_video, capture_in_joint_attention]
)
def test_the_measured_peak_stays_far_below_one_map(work: Callable[[], object]) -> None:
    assert peak_bytes(work) < 4 * TABLE / 3


def test_both_measurements_see_a_dense_map_when_there_is_one() -> None:
    def dense() -> object:
        return reference_attend(*operands(1024), PLAN)

    assert largest(dense) >= 2 * 1024 * 1024
    assert peak_bytes(dense) >= 2 * 4 * 1024 * 1024
