"""Which case is measured at which shapes, and how long that may take."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...vdit_core.grid import TokenGrid
from .cases import GROWING, Case, alone_cases, main_cases
from .problem import Shape

GRIDS = {
    1024: TokenGrid(4, 16, 16),
    2048: TokenGrid(8, 16, 16),
    4096: TokenGrid(16, 16, 16),
    8192: TokenGrid(8, 32, 32),
    16384: TokenGrid(16, 32, 32),
    32760: TokenGrid(21, 30, 52),  # Wan 2.1, 81 frames of 480 × 832
}
LARGE = (
    Shape(24, 128, TokenGrid(28, 30, 53, suffix=256)),  # Mochi, 163 frames of 480 × 848
    Shape(40, 128, TokenGrid(21, 45, 80)),  # Wan 2.1 14B, 81 frames of 720 × 1280
)


@dataclass(frozen=True)
class Budget:
    """Repeats of a row: until `seconds` are spent, at most `most`.

    longest: a row whose one call is likely to take more seconds than this is left out; judged by
    the length before, so generous: short calls on a busy machine are mostly waiting.
    """

    seconds: float
    most: int
    longest: float = math.inf


@dataclass(frozen=True)
class Stage:
    """A case and its shapes, smallest first. memory: whether that is measured too."""

    case: Case
    shapes: tuple[Shape, ...]
    memory: bool


@dataclass(frozen=True)
class Schedule:
    """Everything of one run."""

    device: torch.device
    dtype: torch.dtype
    budget: Budget
    stages: list[Stage]


def make_schedule(quick: bool) -> Schedule:
    """What suits this machine: the GPU where there is one, else the CPU."""
    cuda = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float
    budget = Budget(2, 5) if quick else Budget(10, 9, longest=180)
    main = [
        Stage(case, _shapes(case, cuda, quick), cuda or not quick or case.name in GROWING)
        for case in main_cases(cuda)
    ]
    at = shapes(cuda, [(8192 if cuda else 2048) if quick else (32760 if cuda else 8192)])
    alone = [Stage(case, at, cuda or not quick) for case in alone_cases(cuda)]
    return Schedule(device, dtype, budget, main + alone)


def shapes(cuda: bool, lengths: list[int]) -> tuple[Shape, ...]:
    """The usual heads for the device, at these lengths."""
    heads, width = (12, 128) if cuda else (4, 64)
    return tuple(Shape(heads, width, GRIDS[tokens]) for tokens in lengths)


def _shapes(case: Case, cuda: bool, quick: bool) -> tuple[Shape, ...]:
    grows, goal = case.name in GROWING, 32760 if cuda else 8192
    if quick:
        return shapes(cuda, [goal // 4 // 1024 * 1024, goal // 2, goal] if grows else [goal])
    if not cuda:
        return shapes(cuda, list(GRIDS))
    return shapes(cuda, list(GRIDS) if grows else [goal]) + LARGE
