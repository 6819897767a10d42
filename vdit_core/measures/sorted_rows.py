"""The rows of a tile of the map in ascending order: counts and masses below any weight."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

RUN = 32  # entries; the mass of a row is known at the end of each run of so many


@dataclass(frozen=True)
class SortedRows:
    """The weights of a tile in ascending order, behind those that the mask forbids.

    values: [t, Lk] logs of the weights, or the weights, neither divided by the row sums. log_total:
    [t]. allowed: [t] how many count. before: [t, n + 1] float64 mass of each row before each of n
    runs and in all, not yet divided. All runs have RUN entries but the first, which has the rest.
    """

    values: Tensor
    log_total: Tensor
    allowed: Tensor
    before: Tensor
    in_logs: bool = True

    @classmethod
    def sort(
        cls,
        values: Tensor,
        log_total: Tensor,
        allowed: Tensor,
        work: Tensor,
        in_logs: bool = True,
    ) -> SortedRows:
        """Sorts `values` itself and may write over `work`, both [t, Lk]."""
        sort_in_place(values, negative=in_logs)
        weights = torch.exp(values, out=work) if in_logs else values
        return cls(values, log_total, allowed, _mass_before_runs(weights), in_logs)

    @property
    def ignored(self) -> Tensor:
        """How many at the front of each row do not count, [t]."""
        return self.values.shape[-1] - self.allowed

    def some(self, count: int) -> SortedRows:
        """At most `count` of the rows, spread evenly."""
        every = slice(None, None, -(-len(self.values) // count))
        log_total, allowed = self.log_total[every], self.allowed[every]
        values = self.values[every].contiguous()
        return SortedRows(values, log_total, allowed, self.before[every], self.in_logs)

    def below(self, log_weights: Tensor) -> tuple[Tensor, Tensor]:
        """How many entries of each row lie strictly below, and what share of the row they hold.

        log_weights: [n]. → each [t, n].
        """
        wanted = (log_weights + self.log_total[:, None]).contiguous()
        wanted = wanted if self.in_logs else wanted.exp_()
        count = torch.searchsorted(self.values, wanted)
        run = self._run_of(count)
        entries = self._entries(run)
        less = entries < wanted[..., None]
        within = (self._weights(entries) * less).sum(-1)
        mass = self.before.gather(-1, run) + within
        return count.maximum(self.ignored[:, None]), mass / self.log_total.exp()[:, None]

    def between(self, first: Tensor, last: Tensor) -> Tensor:
        """Log weights of the runs first … last of each row, one after the other."""
        totals = self.log_total.repeat_interleave(last - first)
        if self.values.device.type == "cpu":  # numpy cuts runs out many times faster
            runs = zip(self.values.numpy(), first.tolist(), last.tolist(), strict=True)
            found = torch.from_numpy(np.concatenate([row[a:b] for row, a, b in runs]))
        else:
            place = torch.arange(self.values.shape[-1], device=first.device)
            found = self.values[(place >= first[:, None]) & (place < last[:, None])]
        return (found if self.in_logs else found.log_()) - totals

    def keys_for(self, share: float) -> Tensor:
        """Fewest keys of each row that hold `share` of its mass, as a share of its keys. [t]"""
        spare = ((1 - share) * self.before[:, -1:]).contiguous()
        ends = self.before[:, 1:].contiguous()
        run = torch.searchsorted(ends, spare, right=True).clamp_max_(ends.shape[-1] - 1)
        held = self._weights(self._entries(run)).cumsum(-1, dtype=torch.float64)
        held += self.before.gather(-1, run)[..., None]
        dropped = (self._start(run) + (held <= spare[..., None]).sum(-1))[:, 0]
        kept = self.values.shape[-1] - dropped.maximum(self.ignored)
        return kept.clamp_min(1) / self.allowed.clamp_min(1)

    def _weights(self, values: Tensor) -> Tensor:
        return values.exp() if self.in_logs else values

    @property
    def _missing(self) -> int:
        """What the first run lacks to be like the others."""
        return -self.values.shape[-1] % RUN

    def _run_of(self, place: Tensor) -> Tensor:
        """The run in which a place lies; the last for the place behind all."""
        last = self.before.shape[-1] - 2
        return ((place + self._missing) // RUN).clamp_max_(last)

    def _start(self, run: Tensor) -> Tensor:
        return (run * RUN - self._missing).clamp_min_(0)

    def _entries(self, run: Tensor) -> Tensor:
        """The entries of runs [t, n] of each row, [t, n, RUN], in the first more than belong."""
        rows, keys = self.values.shape
        at = self._start(run) + keys * torch.arange(rows, device=run.device)[:, None]
        stretches = self.values.flatten().unfold(0, min(RUN, keys), 1)
        return stretches.index_select(0, at.flatten()).unflatten(0, run.shape)


def _mass_before_runs(weights: Tensor) -> Tensor:
    """weights: [t, Lk] → [t, n + 1] float64, see SortedRows."""
    rows, keys = weights.shape
    first = keys % RUN
    sums = weights[:, first:].unflatten(-1, (-1, RUN)).sum(-1) if keys >= RUN else weights[:, :0]
    if first:
        sums = torch.cat([weights[:, :first].sum(-1, keepdim=True), sums], -1)
    before = weights.new_zeros(rows, sums.shape[-1] + 1, dtype=torch.float64)
    torch.cumsum(sums, -1, dtype=torch.float64, out=before[:, 1:])
    return before


def sort_in_place(values: Tensor, negative: bool = True) -> None:
    """Sort the last axis of one or two. negative: whether values may be below zero.

    On a CPU by numpy, whose sort is vectorised (torch's is not), where none is negative by their
    bits: these have the same order, and whole numbers need no care for NaN.
    """
    if values.device.type != "cpu":
        values.copy_(values.sort(-1).values)
        return
    rows = np.atleast_2d(values.numpy())
    rows = rows if negative else rows.view(f"i{rows.itemsize}")
    threads = min(torch.get_num_threads(), len(rows))
    if threads == 1 or rows.size < 2**15:
        rows.sort(-1)
        return
    parts = np.array_split(rows, threads)
    others = [_pool(threads - 1).submit(part.sort, -1) for part in parts[1:]]
    parts[0].sort(-1)
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "vdit-sort")
