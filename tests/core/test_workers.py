"""Heads on threads of their own give what one thread gives, and leave torch's threads alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.attention import measure, tiles
from vdit_attention.vdit_core.attention.workers import side_by_side
from vdit_attention.vdit_core.grid import TokenGrid

CPU = torch.device("cpu")
JOBS = [(row, torch.tensor([head])) for row in range(2) for head in range(4)]


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_statistics_are_those_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "CACHE_BYTES", 2**12)  # no two heads fit one tile
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 5, 63, 16, generator=generator) for _ in range(3))

    def found():
        return vars(measure(q, k, v, grid=TokenGrid(3, 3, 7), spans={"text": slice(0, 3)}))

    several = found()
    torch.set_num_threads(1)
    for name, value in found().items():
        torch.testing.assert_close(several[name], value, msg=lambda m, n=name: f"{n}: {m}")


def test_each_worker_has_its_share_of_the_threads_and_answers_come_in_order() -> None:
    meet = threading.Barrier(3, timeout=20)

    def work(row: int, heads: Tensor) -> tuple[int, int, int]:
        if (row, int(heads)) in ((0, 0), (0, 1), (0, 2)):
            meet.wait()  # three at a time, or this breaks
        return row, int(heads), torch.get_num_threads()

    assert side_by_side(work, JOBS, CPU) == [(row, int(heads), 1) for row, heads in JOBS]


def test_threads_are_as_before_also_after_an_error() -> None:
    def work(row: int, heads: Tensor) -> None:
        raise ValueError(f"row {row}")

    with pytest.raises(ValueError, match="row 0"):
        side_by_side(work, JOBS, CPU)
    assert torch.get_num_threads() == 3 == threads_of_a_new_thread()


def test_a_single_job_keeps_the_callers_thread() -> None:
    def work(row: int, heads: Tensor) -> str:
        return threading.current_thread().name

    assert side_by_side(work, JOBS[:1], CPU) == [threading.current_thread().name]
