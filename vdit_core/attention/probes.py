"""What a call would do under edits that it does not have: fewer weights, other temperatures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..plan import AttentionPlan
from .checks import check_finite, check_mask, check_operands, check_region, grouped
from .heads import HeadGroup
from .measure import measure
from .thin import quantiles
from .tiles import heads_at_once

RATES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
TEMPERATURES = tuple(2.0 ** (n / 2) for n in range(-4, 5))
PROBED: dict[str, tuple[str, ...]] = {
    "sensitivity": ("output_error", "output_norm"),
    "temperatures": ("temperature_entropy",),
}


def probe(
    what: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    *,
    rows: Sequence[int],
    heads: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """The fields of PROBED[what] for the given batch rows and heads, each [rows, heads, …].

    q, k, v: [B, H, L, D]. plan: as it acts, without a threshold. mask: broadcasts to
    [B, H, Lq, Lk]. poll: called between the rates or temperatures; may raise.

    Raises ValueError for a plan that already drops weights: what would be dropped is no share of
    what is left.
    """
    k, v = grouped(k, q), grouped(v, q)
    check_operands(q, k, v)
    check_mask(mask, q, k)
    check_region(plan, q, k)
    check_finite(q=q, k=k, v=v)
    if plan.thinning is not None:
        raise ValueError(f"{what}: the plan already drops weights; probe it without a threshold")
    if what == "sensitivity":
        error, norm = _output_errors(q, k, v, plan, rows, heads, mask, scale, poll)
        return {"output_error": error, "output_norm": norm}
    entropy = _entropies(q, k, plan, rows, heads, mask, scale, poll)
    return {"temperature_entropy": entropy}


def _output_errors(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    rows: Sequence[int],
    heads: Tensor,
    mask: Tensor | None,
    scale: float | None,
    poll: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """‖thinned out − out‖ at each of RATES, and ‖out‖, over all queries of each head.

    One pass finds the thresholds of all rates, one more for each rate makes its output.
    """
    error = torch.zeros(len(rows), len(heads), len(RATES), dtype=torch.float64)
    norm = torch.zeros(len(rows), len(heads), dtype=torch.float64)
    every = torch.arange(len(heads)).split(heads_at_once(q.device, q.shape[2], k.shape[2]))
    for place, row in enumerate(rows):
        for some in every:
            poll()
            group = HeadGroup(q, k, plan, row, heads[some], mask, scale)
            values = v[row, heads[some].to(v.device)].to(group.dtype)
            out, total = _output(group, values)
            norm[place, some] = total.sqrt().cpu()
            parts = group.thinnable
            rates = torch.tensor(RATES, dtype=torch.float64).expand(len(some), -1)
            found = [[[one.log_weight for one in of] for of in quantiles(p, rates)] for p in parts]
            for n in range(len(RATES)):
                poll()
                for part, logs in zip(parts, found, strict=True):
                    part.thresholds = torch.tensor([of[n] for of in logs]).to(part.q)
                error[place, some, n] = _distance(group, values, out).sqrt().cpu()
    return error, norm


def _output(group: HeadGroup, v: Tensor) -> tuple[Tensor, Tensor]:
    """gate · M V [G, Lq, Dv], and its Σ out² [G] in float64."""
    out = v.new_zeros(len(v), group.queries, v.shape[-1])
    for tile in group.tiles():
        out[:, tile.queries] = _gated(group, tile.weights @ v / tile.total[..., None])
    return out, out.double().square().sum((1, 2))


def _distance(group: HeadGroup, v: Tensor, out: Tensor) -> Tensor:
    """Σ (gate · M V − out)², [G] float64."""
    total = torch.zeros(len(v), dtype=torch.float64, device=v.device)
    for tile in group.tiles():
        now = _gated(group, tile.weights @ v / tile.total[..., None])
        total += (now - out[:, tile.queries]).double().square().sum((1, 2))
    return total


def _gated(group: HeadGroup, out: Tensor) -> Tensor:
    return out if group.gate is None else out * group.gate


def _entropies(
    q: Tensor,
    k: Tensor,
    plan: AttentionPlan,
    rows: Sequence[int],
    heads: Tensor,
    mask: Tensor | None,
    scale: float | None,
    poll: Callable[[], None],
) -> Tensor:
    """Mean entropy of the rows of each head at each of TEMPERATURES times its own, in nats."""
    means: list[Tensor] = []
    for value in TEMPERATURES:
        poll()
        found = measure(
            q,
            k,
            wants="entropy",
            plan=plan.scaled(torch.full(q.shape[:2], value, dtype=torch.float64)),
            rows=[*rows],
            heads=heads,
            mask=mask,
            scale=scale,
        )
        means.append(found["entropy"].mean(-1, dtype=torch.float64).cpu())
    return torch.stack(means, -1)
