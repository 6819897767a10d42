"""The calls that are timed, by name and implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import psutil
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from ...vdit_core.attention import attend, measure
from ...vdit_core.attention.blocks import choose_blocks, flex_mask
from ...vdit_core.plan import AttentionPlan, Blocks, Threshold
from .problem import Problem

RATE = 0.75
PEAK = 6  # times the length of the queries for peaked maps: noise alone makes flat ones
BLOCK = 64
BLOCK_RATES = {"block50": 0.5, "block75": 0.75, "block90": 0.9}
ALONE = (
    "lse",
    "entropy",
    "out",
    "column_sums",
    "coverage",
    "max_weight",
    "keys_for_95",
    "threshold",
    "mass_curve",
    "frame_distance_mass",
    "spatial_distance_mass",
    "pooled_map",
    "text_mass",
)
GROWING = ("statistics", "quantile", "block75", "sdpa")  # whose growth with length is fitted
NO_FLEX = "flex_attention is compared on CUDA only: elsewhere compiling it takes longer than this"

Work = Callable[[], object]


class LeftOut(Exception):
    """A row that cannot be made here; the message says why."""


@dataclass(frozen=True)
class Case:
    """One row per shape. implementation: as the call takes it, or whose code it is.

    prepare: does what is not to be timed, such as choosing blocks beforehand.
    """

    name: str
    implementation: str
    prepare: Callable[[Problem], Work]


def main_cases(cuda: bool) -> list[Case]:
    """Those of the goals and what they compare with."""
    torch_only = [
        Case("sdpa", "torch", lambda p: p.sdpa),
        Case("dense map", "dense torch", _dense_map),
        Case("flex75", "torch", _flex),
    ]
    own = [case for name in _OWN for case in _implementations(name, cuda)]
    return [*torch_only[:1], *own, *torch_only[1:]]


def alone_cases(cuda: bool) -> list[Case]:
    """Each statistic on its own."""
    which = ["streaming", "triton"] if cuda else ["streaming"]
    return [Case(name, how, partial(_measure, name, how)) for name in ALONE for how in which]


def find_case(name: str) -> Case:
    """A case by its name, in plain torch."""
    return next(c for c in [*main_cases(False), *alone_cases(False)] if c.name == name)


def random_blocks(problem: Problem, rate: float) -> Tensor:
    """Kept blocks of every head, [1, H, n, n]; the time depends on their number alone."""
    heads, count = problem.q.shape[1], -(-problem.q.shape[2] // BLOCK)
    masses = torch.rand(heads, count, count, generator=torch.Generator().manual_seed(0))
    return choose_blocks(masses, torch.full((heads,), rate))[None]


def _implementations(name: str, cuda: bool) -> list[Case]:
    plain, prepare = _OWN[name]
    return [Case(name, how, partial(prepare, how)) for how in (plain, *(["triton"] * cuda))]


def _measure(wants: str, how: str, problem: Problem) -> Work:
    return lambda: measure(
        problem.q,
        problem.k,
        problem.v,
        wants=wants,
        grid=problem.grid,
        spans={"text": problem.text},
        implementation=how,
    )


def _statistics(how: str, problem: Problem) -> Work:
    return _measure("all", how, problem)


def _peaked_statistics(how: str, problem: Problem) -> Work:
    return _statistics(how, replace(problem, q=PEAK * problem.q))


def _quantile(renormalize: bool, how: str, problem: Problem) -> Work:
    return _attend(problem, Threshold(_rates(problem, RATE), renormalize), how)


def _blocks(rate: float, how: str, problem: Problem) -> Work:
    blocks = Blocks(BLOCK, kept=random_blocks(problem, rate))
    return _attend(problem, Threshold(_rates(problem, rate), blocks=blocks), how)


def _choose(how: str, problem: Problem) -> Work:
    return _attend(problem, Threshold(_rates(problem, RATE), blocks=Blocks(BLOCK)), how)


def _attend(problem: Problem, threshold: Threshold, how: str) -> Work:
    plan = AttentionPlan(threshold=threshold)
    return lambda: attend(problem.q, problem.k, problem.v, plan, implementation=how)


def _rates(problem: Problem, rate: float) -> Tensor:
    return torch.full(problem.q.shape[:2], rate)


def _dense_map(problem: Problem) -> Work:
    q, k, v = problem.q, problem.k, problem.v
    needed = 3 * q.shape[1] * q.shape[2] ** 2 * q.itemsize  # scores, scaled scores, weights
    free = torch.cuda.mem_get_info()[0] if q.is_cuda else psutil.virtual_memory().available
    if needed > 0.8 * free:
        raise LeftOut(f"whole maps take {needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free")
    return lambda: (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


def _flex(problem: Problem) -> Work:
    if not problem.q.is_cuda:
        raise LeftOut(NO_FLEX)
    kept = random_blocks(problem, RATE).to(problem.q.device)
    tokens, flex = problem.q.shape[2], torch.compile(flex_attention)
    mask = flex_mask(kept, BLOCK, (tokens, tokens))
    return lambda: flex(problem.q, problem.k, problem.v, block_mask=mask)


# Which plain implementation carries it out in the nodes, and how the call is prepared.
_OWN: dict[str, tuple[str, Callable[[str, Problem], Work]]] = {
    "statistics": ("streaming", _statistics),
    "statistics of peaked maps": ("streaming", _peaked_statistics),
    "quantile": ("streaming", partial(_quantile, True)),
    "quantile not renormalised": ("streaming", partial(_quantile, False)),
    **{name: ("dense", partial(_blocks, rate)) for name, rate in BLOCK_RATES.items()},
    "choose blocks": ("dense", _choose),
}
