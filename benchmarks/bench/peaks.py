"""Memory that a call takes beyond its operands and its answer, measured apart from the timing.

On CUDA torch's allocator knows. On the CPU it is the growth of a fresh process, sampled all the
while, because much is allocated outside torch; peaks shorter than the sampling may be missed.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import threading
import time

import psutil
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...vdit_core.attention import Measures
from ...vdit_core.grid import TokenGrid
from .cases import Work, find_case
from .problem import Shape, make_problem

HOW = {
    "cuda": "torch.cuda.max_memory_allocated",
    "cpu": "resident memory of a process of its own, sampled every millisecond",
}
POLL_SECONDS = 0.001
WARM_UP = TokenGrid(2, 8, 8)


def cuda_peak_mb(work: Work) -> float:
    """Extra memory of one call on the current GPU."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    answer = work()
    torch.cuda.synchronize()
    return _extra_mb(torch.cuda.max_memory_allocated() - before, answer)


def cpu_peak_mb(name: str, shape: Shape) -> float:
    """Extra memory of one call of a case, in a process of its own: heaps remember earlier calls."""
    command = [sys.executable, "-m", __name__, name, *map(str, _numbers(shape))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.splitlines() or [f"status {done.returncode}"])[-1])
    return float(done.stdout.splitlines()[-1])


def peak_here_mb(name: str, shape: Shape) -> float:
    """Extra memory by the growth of this process since it was warm: call it in a fresh one."""
    case, place = find_case(name), (torch.device("cpu"), torch.float32)
    first = make_problem(Shape(shape.heads, shape.width, WARM_UP), *place)
    case.prepare(first)()  # libraries and threads allocate once and for all
    start = _resident()
    problem = make_problem(shape, *place)
    peak, answer = _highest(case.prepare(problem))
    return _extra_mb(peak - start - problem.bytes, answer)


def _highest(work: Work) -> tuple[int, object]:
    """The highest resident memory while this runs, and what it gives."""
    ended, highest = threading.Event(), _resident()

    def poll() -> None:
        nonlocal highest
        while not ended.is_set():
            highest = max(highest, _resident())
            time.sleep(POLL_SECONDS)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        answer = work()
    finally:
        ended.set()
        thread.join()
    return highest, answer


def _resident() -> int:
    return psutil.Process().memory_info().rss


def _extra_mb(grown: int, answer: object) -> float:
    leaves = tree_leaves(vars(answer) if isinstance(answer, Measures) else answer)
    own = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
    return max(0, grown - own) / 1e6


def _numbers(shape: Shape) -> list[int]:
    grid = shape.grid
    return [shape.heads, shape.width, grid.frames, grid.rows, grid.cols, grid.prefix, grid.suffix]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the memory of one case in this process.")
    parser.add_argument("case")
    parser.add_argument("numbers", type=int, nargs=7, help="heads, width and the token grid")
    options = parser.parse_args()
    heads, width, *grid = options.numbers
    print(peak_here_mb(options.case, Shape(heads, width, TokenGrid(*grid))))


if __name__ == "__main__":
    main()
