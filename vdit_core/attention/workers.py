"""Groups of heads side by side: on a CPU each thread takes one for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
MOST_WORKERS = 4  # so that memory stays small on large machines; each then has more threads


def side_by_side(
    work: Callable[[int, Tensor], T], jobs: Sequence[tuple[int, Tensor]], device: torch.device
) -> list[T]:
    """work(row, heads) of every job, in order, without gradients where there is more than one.

    Threads that share each operation wait for one another after every one of them, many thousand
    times per head, and see little of what the last one left in their caches.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(jobs), MOST_WORKERS)
    if device.type != "cpu" or workers < 2:
        return [work(*job) for job in jobs]

    def alone(job: tuple[int, Tensor]) -> T:
        with torch.no_grad():  # this mode is each thread's own
            return work(*job)

    fewer = partial(torch.set_num_threads, threads // workers)
    try:
        with ThreadPoolExecutor(workers, "vdit-heads", fewer) as pool:
            return list(pool.map(alone, jobs))
    finally:
        torch.set_num_threads(threads)  # threads that start later take the number last set
