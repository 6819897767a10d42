"""Whether a whole attention map is ever in memory: measured at 8,192 tokens, on the CPU.

Two measurements of each sampling: the process's peak memory beyond that of plain sampling, and the
largest tensor that any torch operation made. Both are held against one map of one head.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ...vdit_core.edits.transfer import PairTransfer
from ...vdit_core.host.comfy import attach
from ...vdit_core.program import Asker, Capture, Edit
from ...vdit_core.record import Record
from ...vdit_core.selection import parse_selection, parse_where
from ..checks import Check, at_most
from ..watch import Sampling

SHAPE = (2, 16, 8, 32, 32)  # a pair of 8,192 tokens each
TOKENS = 8 * 32 * 32
ONE_MAP = TOKENS * TOKENS * 4 / 1e6  # MB, one head of one video in float32
POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Use:
    """Memory of one sampling in MB: growth of the process at its peak, and the largest tensor."""

    peak: float
    largest: float


def run(quick: bool = False) -> list[Check]:
    """Peaks and largest tensors of capture and transfer, beside plain sampling."""
    sampling = Sampling(SHAPE, steps=1, cfg=1.0)
    models = {
        "capture of two layers": _capturing(sampling.model),
        "transfer in all layers": _transferring(sampling.model, 1.0),
        "transfer in all layers, strength 0.5": _transferring(sampling.model, 0.5),
    }
    sampling(sampling.model)  # whatever is allocated only once
    plain = _use(lambda: sampling(sampling.model))
    uses = {name: _use(lambda m=model: sampling(m)) for name, model in models.items()}
    checks: list[Check] = []
    for name, use in uses.items():
        beyond = max(0.0, use.peak - plain.peak)
        checks += [at_most(f"{name}: peak beyond plain sampling", beyond, ONE_MAP, "MB")]
        checks += [at_most(f"{name}: largest tensor", use.largest, ONE_MAP, "MB")]
    size = f"{TOKENS:,} × {TOKENS:,} in float32, which is the limit above"
    return [
        *checks,
        Check("size of one whole map of one head", ONE_MAP, "MB", note=size),
        Check("peak of plain sampling", plain.peak, "MB"),
        Check("largest tensor of plain sampling", plain.largest, "MB"),
    ]


def _capturing(model: ModelPatcher) -> ModelPatcher:
    steps = parse_selection("all", "steps")
    return attach(model, Capture(Asker("memory"), parse_where("0,-1", "all"), steps, Record()))


def _transferring(model: ModelPatcher, strength: float) -> ModelPatcher:
    return attach(model, Edit(Asker("memory"), PairTransfer(strength), parse_where("all", "all")))


def _use(sample: Callable[[], Tensor]) -> Use:
    process, ended, highest = psutil.Process(), threading.Event(), 0
    before = process.memory_info().rss

    def poll() -> None:
        nonlocal highest
        while not ended.is_set():
            highest = max(highest, process.memory_info().rss)
            time.sleep(POLL_SECONDS)

    with _running(poll, ended), _Largest() as made:
        sample()
    return Use((highest - before) / 1e6, made.bytes / 1e6)


@contextmanager
def _running(poll: Callable[[], None], ended: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor made inside the `with` block."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor):
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return out
