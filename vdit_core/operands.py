"""The tensors of one attention call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .attention import Dense
from .grid import TokenGrid


@dataclass(frozen=True)
class Operands:
    """One call's tensors. q, k, v: [B, H, L, D]. mask: four axes or None. dense: the host's own.

    prompts: [B] int64, tokens of each row's prompt where a pair was padded to the longer one.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    scale: float | None
    dense: Dense
    grid: Callable[[], TokenGrid]
    prompts: Tensor | None = None

    def own_mask(self, row: int) -> Tensor | None:
        """The mask of one row, [1 or H, 1 or Lq, Lk], where rows differ in it."""
        return None if self.mask is None or self.mask.shape[0] == 1 else self.mask[row]
