"""Captured maps and entropies against whole maps in float64, pooled afterwards."""

from __future__ import annotations

import torch
from torch import Tensor

from ...vdit_core.grid import TokenGrid
from ...vdit_core.host.comfy import attach
from ...vdit_core.program import Asker, Capture
from ...vdit_core.record import Measurement, Record
from ...vdit_core.selection import parse_selection, parse_where
from ..checks import Check, at_most
from ..watch import AWKWARD, Heard, Sampling, listening

GRID = TokenGrid(*AWKWARD[2:])
TOLERANCE = 1e-5  # relative; float32 weights of 105 keys are good to about 1e-6
SIZES = (8, 30, 105)  # fewer bins than a frame has tokens, an uneven division, no pooling


def run(quick: bool = False) -> list[Check]:
    """Largest relative difference of maps and entropies, for each map size."""
    return [check for size in SIZES for check in _compare(size)]


def _compare(size: int) -> list[Check]:
    sampling, record = Sampling(), Record()
    where, steps = parse_where("all", "all"), parse_selection("all", "steps")
    model = attach(sampling.model, Capture(Asker("capture"), where, steps, record, map_size=size))
    calls: list[Heard] = []
    with listening(calls.append):
        sampling(model)
    pairs = [(m, _truth(m, calls)) for m in record.data.measurements]
    of_map = max(_apart(m.measures.pooled_map, _pooled(t, size)) for m, t in pairs)
    entropy = [(m.measures.entropy, torch.special.entr(t).sum(-1).mean(-1)) for m, t in pairs]
    note = f"{len(pairs)} calls of {AWKWARD[2]} × {AWKWARD[3]} × {AWKWARD[4]} tokens"
    name = f"map size {size}"
    return [
        at_most(f"{name}: pooled map", of_map, TOLERANCE, "relative", note),
        at_most(
            f"{name}: row entropy", max(_apart(*p) for p in entropy), TOLERANCE, "relative", note
        ),
    ]


def _truth(measurement: Measurement, calls: list[Heard]) -> Tensor:
    """The whole map of the call that was measured, [H, L, L] float64."""
    for call in calls:
        if call.layer == measurement.layer and abs(call.sigma - measurement.sigma) < 1e-6:
            branch = ("cond", "uncond").index(measurement.branch)
            row = call.branches.index(branch) + measurement.item
            q, k = call.q[row].double(), call.k[row].double()
            return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    raise ValueError(f"the sampler made no call like {measurement}")


def _pooled(maps: Tensor, size: int) -> Tensor:
    """Means over the blocks of the grid's bins, [H, m, m]."""
    bins = GRID.bins(size)
    member = (bins[:, None] == torch.arange(int(bins.max()) + 1)).double()
    member = member / member.sum(0)
    return member.T @ maps @ member


def _apart(a: Tensor, b: Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()
