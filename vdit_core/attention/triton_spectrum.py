"""What the sizes of the weights say, read by Triton kernels: quantile, curve, keys for 95 %."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..measures.spectrum import CURVE
from .triton_heads import FoldedHeads, Rows
from .triton_kernels import DIGITS
from .triton_launch import count_below, count_digits

DIGIT_BITS = DIGITS.bit_length() - 1
SPLITS = 8  # parts into which one pass splits the bracket of a row
MOST_PASSES = 64  # ten or so close a bracket; one that holds NaN would never close


@dataclass(frozen=True)
class Quantiles:
    """Of each head, [n]. log_weight: the threshold. below: allowed entries strictly below it.

    entries: all allowed ones. Where there are none the threshold is −inf.
    """

    log_weight: Tensor
    below: Tensor
    entries: Tensor

    @property
    def realised_rate(self) -> Tensor:
        return self.below / self.entries.clamp_min(1).double()


def select(heads: FoldedHeads, rows: Rows, rates: Tensor) -> Quantiles:
    """The exact quantile of each head's allowed log weights. rates: [n] float64 in 0..1.

    A radix selection: a log weight is a number of 32 bits, and each pass counts which digits follow
    the beginning settled so far. It takes four passes whatever the weights are, ties included.
    """
    entries = rows.allowed.sum(-1)
    place = (rates.to(entries.device) * entries).long().minimum(entries - 1).clamp_min(0)
    prefix, below = heads.new(dtype=torch.int64), heads.new(dtype=torch.int64)
    for shift in range(32 - DIGIT_BITS, -1, -DIGIT_BITS):
        counts = count_digits(heads, rows, prefix, shift)
        upto = counts.cumsum(-1)
        digit = (upto <= place[:, None]).sum(-1).clamp_max(DIGITS - 1)
        before = (upto - counts).gather(-1, digit[:, None])[:, 0]
        prefix, below, place = prefix * DIGITS + digit, below + before, place - before
    found = _float_at(prefix).where(entries > 0, -math.inf)
    return Quantiles(found, below.where(entries > 0, 0), entries)


def _float_at(order: Tensor) -> Tensor:
    """The float32 at a place in the order that digits_kernel counts in."""
    bits = torch.where(order >= 2**31, order - 2**31, -1 - order)
    return bits.to(torch.int32).view(torch.float32)


def curve_levels(keys: int) -> Tensor:
    """Log weights at which the mass curve is measured, [len(CURVE)]."""
    return torch.tensor([j * math.log(2) - math.log(keys) for j in CURVE])


def keys_for(heads: FoldedHeads, rows: Rows, share: float) -> Tensor:
    """Mean over attending rows of the share of allowed keys that hold `share` of its mass, [n]."""
    bracket = _Bracket.around(rows, heads.keys, 1 - share)
    passes = 0
    while bracket.open and passes < MOST_PASSES:
        levels = bracket.levels
        bracket.narrow(levels, *count_below(heads, rows, levels))
        passes += 1
    kept = (rows.allowed - bracket.dropped).clamp_min(1) / rows.allowed.clamp_min(1).double()
    return (kept * rows.attends).sum(-1) / rows.attends.sum(-1)


@dataclass
class _Bracket:
    """Of each row [n, Lq]: where in its sorted weights the mass below comes to exceed `spare`.

    low, high: log weights with mass below low ≤ spare < mass below high. count, mass: of what is
    below low. upto: count below high. log_total: of the row.
    """

    spare: float
    low: Tensor
    high: Tensor
    count: Tensor
    mass: Tensor
    upto: Tensor
    log_total: Tensor

    @classmethod
    def around(cls, rows: Rows, keys: int, spare: float) -> _Bracket:
        low = torch.full_like(rows.total, math.log(spare / keys) - 0.01)  # keys of that weigh less
        high = 0.01 - rows.log_total  # the largest weight is 1 / total
        low = low.minimum(high - 1)
        zero = torch.zeros_like(rows.allowed)
        return cls(spare, low, high, zero, zero.double(), rows.allowed, rows.log_total)

    @property
    def _between(self) -> Tensor:
        """Rows whose bracket holds several entries and may still be split."""
        room = torch.nextafter(self.low, self.high) < self.high
        return room & (self.upto - self.count > 1)

    @property
    def open(self) -> bool:
        return bool(self._between.any())

    @property
    def levels(self) -> Tensor:
        """Where to look next, [n, Lq, SPLITS], rising from low."""
        steps = torch.arange(SPLITS, device=self.low.device) / SPLITS
        return torch.lerp(self.low[..., None], self.high[..., None], steps)

    def narrow(self, levels: Tensor, counts: Tensor, masses: Tensor) -> None:
        """To what lies between the last level with at most the spare mass below, and the next."""
        last = (masses <= self.spare).sum(-1, keepdim=True).clamp_min(1) - 1
        above = torch.cat([levels, self.high[..., None]], -1)
        below = torch.cat([counts, self.upto[..., None]], -1)
        self.low, self.high = (above.gather(-1, at)[..., 0] for at in (last, last + 1))
        self.count, self.upto = (below.gather(-1, at)[..., 0] for at in (last, last + 1))
        self.mass = masses.gather(-1, last)[..., 0]

    @property
    def dropped(self) -> Tensor:
        """Most entries that may go without losing more than the spare mass; int32.

        Several entries in a closed bracket are equal: as many of them go as the mass allows.
        """
        total = self.log_total.double().exp()
        each = (self.low + self.log_total).exp().double()
        tied = ((self.spare - self.mass) * total / each).floor()
        most = (self.upto - self.count - 1).clamp_min(0)
        return self.count + tied.clamp_min(0).minimum(most).to(most)
