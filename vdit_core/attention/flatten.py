"""The temperature that raises a head's entropy by a wanted amount."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..plan import AttentionPlan
from .masks import allowed
from .measure import measure

CLOSE = 1e-3  # nats
_MOST = math.log(1000.0)  # no higher temperature is looked for: by then a map is all but uniform


def key_counts(mask: Tensor | None, q: Tensor, k: Tensor, rows: Sequence[int]) -> Tensor:
    """How many keys each query of some rows may look at, [rows, H or 1, Lq or 1] int64."""
    if mask is None:
        return torch.full((len(rows), 1, 1), k.shape[2], device=q.device)
    keys = allowed(mask).expand(*mask.shape[:3], k.shape[2]).sum(-1)
    return keys.expand(q.shape[0], -1, -1)[[*rows]]


def flattening(
    q: Tensor,
    k: Tensor,
    share: float,
    *,
    rows: Sequence[int],
    mask: Tensor | None = None,
    scale: float | None = None,
    poll: Callable[[], None] = lambda: None,
) -> Tensor:
    """The T ≥ 1 of each head at which softmax(S / T) has so much more entropy. [rows, H] float64

    q, k: [B, H, L, D]. share: of the way from the head's mean row entropy to the uniform map's.
    Found by false position in log T, to CLOSE nats, or 1000 at most; entropy grows with T. poll:
    called between measurements; may raise.
    """

    def entropies(temperature: Tensor) -> Tensor:
        poll()
        every = torch.ones(q.shape[:2], dtype=torch.float64)
        every[[*rows]] = temperature
        plan = AttentionPlan(temperature=every)
        found = measure(q, k, wants="entropy", plan=plan, rows=[*rows], mask=mask, scale=scale)
        return found["entropy"].double().mean(-1).cpu()

    low = torch.zeros(len(rows), q.shape[1], dtype=torch.float64)
    high = torch.full_like(low, math.log(2))
    own = entropies(low.exp())
    most = key_counts(mask, q, k, rows).clamp(min=1).double().log().mean(-1).cpu()
    wanted = own + share * (most - own)
    below, above = own - wanted, entropies(high.exp()) - wanted
    while bool((short := (above < 0) & (high < _MOST)).any()):
        low, below = torch.where(short, high, low), torch.where(short, above, below)
        high = torch.where(short, (2 * high).clamp(max=_MOST), high)
        above = torch.where(short, entropies(high.exp()) - wanted, above)

    def error(at: Tensor) -> Tensor:
        return entropies(at.exp()) - wanted

    return _root(error, low, high, below, above).exp()


def _root(
    error: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, below: Tensor, above: Tensor
) -> Tensor:
    """Where a growing error is nearly 0, by the Illinois method: false position, and an end that
    stays twice counts half. below, above: the errors at low and at high.

    Where even the high end is too low it is the answer.
    """
    at, looking = torch.where(below > -CLOSE, low, high), (below <= -CLOSE) & (above >= CLOSE)
    was_under = torch.zeros_like(looking)
    was_over = was_under.clone()
    while bool(looking.any()):
        at = torch.where(looking, (low * above - high * below) / (above - below), at)
        found = error(at)
        under, over = looking & (found < 0), looking & (found >= 0)
        low, high = torch.where(under, at, low), torch.where(over, at, high)
        below = torch.where(under, found, torch.where(over & was_over, below / 2, below))
        above = torch.where(over, found, torch.where(under & was_under, above / 2, above))
        was_under, was_over = under, over
        looking = looking & (found.abs() >= CLOSE) & (high - low > 1e-9)
    return at
