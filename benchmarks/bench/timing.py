"""Time a case and torch's attention in turn, so that both meet the same machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from .cases import Work
from .schedule import Budget


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, the least over the repeats: other programs only ever add to them."""

    case: float
    sdpa: float

    @property
    def ratio(self) -> float:
        return self.case / self.sdpa


def interleaved(work: Work, sdpa: Work, budget: Budget, device: torch.device) -> Timing:
    """Alternate both until the budget is spent. On a GPU each is called once before."""
    if device.type == "cuda":
        _seconds(sdpa, device)
        _seconds(work, device)  # kernels are compiled and tuned by their first call
    ended = time.perf_counter() + budget.seconds
    both: list[tuple[float, float]] = []
    while not both or (len(both) < budget.most and time.perf_counter() < ended):
        own = _seconds(sdpa, device)
        both.append((_seconds(work, device), own))
    return Timing(*(min(times) for times in zip(*both, strict=True)))


def _seconds(work: Work, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
