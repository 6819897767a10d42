"""All statistics by Triton kernels, a group of heads at a time. Speed on a GPU is unmeasured."""

from __future__ import annotations

import torch
from torch import Tensor

from ..measures.columns import ColumnStatistics, value_norms
from ..measures.structure import by_frame_distance
from ..plan import AttentionPlan
from .question import Question
from .results import Measures
from .triton_heads import FoldedHeads, Rows, check_values, fold
from .triton_launch import count_below, read_columns, read_places, read_rows
from .triton_spectrum import SPLITS, curve_levels, keys_for, select
from .triton_structure import (
    Runs,
    frame_mass,
    pooled_map,
    spatial_distance,
    text_mass,
    text_own_mass,
)

GROUP_BYTES = 2**26  # of one tensor that holds sums of a group of heads

COLUMNS = "column_sums", "coverage", "coverage_key", "value_norms"
FRAMES = "frame_distance_mass", "frame_mass"
RUNS = *FRAMES, "text_mass", "text_own_mass", "pooled_map", "other_mass"
QUANTILE = "threshold", "realised_rate", "mass_lost"


def triton_measure(
    question: Question,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    mask: Tensor | None,
    scale: float | None,
    plan: AttentionPlan,
    rows: list[int],
    heads: Tensor,
) -> Measures:
    """The fields asked for, each in as few passes over the map as it needs.

    Raises RuntimeError where Triton cannot run, and ValueError for a plan it cannot fold.
    """
    if plan.threshold is not None:
        raise ValueError(
            "threshold: 'triton' measures maps before weights are dropped; choose "
            "implementation='streaming' for it"
        )
    if v is not None and question.asks("out", "energy"):
        check_values(q, v)
    heads = heads.cpu()
    each_row = torch.tensor(rows, dtype=torch.int64).repeat_interleave(len(heads))
    folded = fold(q, k, mask, scale, plan, each_row, heads.repeat(len(rows)))
    runs = Runs.of(question, folded.queries)
    size = max(1, GROUP_BYTES // _bytes(question, folded, v, len(runs)))
    groups = (folded[start : start + size] for start in range(0, len(folded), size))
    found = [_measured(question, group, v, runs) for group in groups]
    parts = {name: torch.cat([part[name] for part in found]) for name in question.wants}
    shape = len(rows), len(heads)
    return Measures(**{name: part.unflatten(0, shape) for name, part in parts.items()})


def _bytes(question: Question, folded: FoldedHeads, v: Tensor | None, runs: int) -> int:
    """Of the largest tensor one head needs."""
    numbers = [folded.queries * (0 if v is None else v.shape[-1]), 4 * SPLITS * folded.queries]
    if question.asks(*COLUMNS, *RUNS):
        numbers.append(runs * folded.keys)
    if question.grid is not None and question.asks("spatial_distance_mass"):
        numbers.append((question.grid.rows * question.grid.cols) ** 2)
    return 4 * max(numbers)


def _measured(
    question: Question, heads: FoldedHeads, v: Tensor | None, runs: Runs
) -> dict[str, Tensor]:
    wanted = v if question.asks("out", "energy") else None
    rows = read_rows(heads, wanted, entropy=question.asks("entropy"), exact=True)
    found = {"lse": rows.lse, "max_weight": rows.max_weight}
    if rows.entropy is not None:
        found["entropy"] = rows.entropy
    if rows.out is not None and v is not None:
        found |= {"out": rows.out.to(v.dtype), "energy": rows.out.double().square().sum((1, 2))}
    if question.asks(*COLUMNS, *RUNS):
        found |= _columns(question, heads, rows, v, runs)
    if question.grid is not None and question.asks("spatial_distance_mass"):
        places = read_places(heads, rows, question.grid)
        found["spatial_distance_mass"] = spatial_distance(places, question.grid)
    return found | _spectrum(question, heads, rows)


def _columns(
    question: Question, heads: FoldedHeads, rows: Rows, v: Tensor | None, runs: Runs
) -> dict[str, Tensor]:
    heavy = question.asks(*COLUMNS[1:])
    sums, counts = read_columns(heads, rows, runs.bounds, question.tau if heavy else None)
    found: dict[str, Tensor] = {}
    if question.text is not None and question.asks("text_mass"):
        found["text_mass"] = text_mass(sums, runs, question.text, question.grid)
    if question.text is not None and question.asks("text_own_mass"):
        found["text_own_mass"] = text_own_mass(sums, runs, question.text)
    if question.grid is not None and question.asks(*FRAMES):
        frames = found["frame_mass"] = frame_mass(sums, runs, question.grid)
        found["frame_distance_mass"] = by_frame_distance(frames) / question.grid.frames
    if question.asks("pooled_map", "other_mass"):
        names = "pooled_map", "other_mass"
        found |= dict(zip(names, pooled_map(sums, runs, question), strict=True))
    state = ColumnStatistics(len(heads), heads.keys, question.tau, sums.device)
    state.rows, state.heavy = heads.queries, counts.long()
    state.sums = found["column_sums"] = sums.sum(1, dtype=torch.float64)
    found["coverage"], key = state.coverage()
    found["coverage_key"] = key
    if v is not None and question.asks("value_norms"):
        found["value_norms"] = value_norms(heads.values(v).float(), key)
    return found


def _spectrum(question: Question, heads: FoldedHeads, rows: Rows) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    if question.asks("keys_for_95"):
        found["keys_for_95"] = keys_for(heads, rows, 0.95)
    levels = [curve_levels(heads.keys).to(heads.q.device).expand(len(heads), -1)]
    if question.asks(*QUANTILE):
        quantiles = select(heads, rows, heads.new(dtype=torch.float64) + question.rate)
        found["threshold"] = quantiles.log_weight.double().exp()
        found["realised_rate"] = quantiles.realised_rate
        levels.append(quantiles.log_weight[:, None])
    if not question.asks("mass_curve", "mass_lost"):
        return found
    counts, masses = count_below(heads, rows, torch.cat(levels, -1)[:, None])
    lost = masses.sum(1) / rows.attends.sum(-1, keepdim=True).clamp_min(1)
    rate = counts.sum(1) / rows.allowed.sum(-1, keepdim=True).clamp_min(1).double()
    curve = slice(levels[0].shape[-1])
    found["mass_curve"] = torch.stack([rate[:, curve], 1 - lost[:, curve]], 1)
    found["mass_lost"] = lost[:, -1]
    return found
