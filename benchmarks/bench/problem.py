"""What is measured: attention calls of a given shape, filled with noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ...vdit_core.grid import TokenGrid

SHOWN_AS_TEXT = 64  # keys that play the text where a shape has none of its own


@dataclass(frozen=True)
class Shape:
    """One call: heads, head width, and the tokens in space and time."""

    heads: int
    width: int
    grid: TokenGrid

    @property
    def tokens(self) -> int:
        return len(self.grid)

    @property
    def axes(self) -> list[int]:
        return [1, self.heads, self.tokens, self.width]

    @property
    def work(self) -> int:
        """Grows as the time of dense attention does."""
        return self.heads * self.tokens**2 * self.width


@dataclass(frozen=True)
class Problem:
    """q, k, v: [1, H, L, D]."""

    q: Tensor
    k: Tensor
    v: Tensor
    grid: TokenGrid

    @property
    def text(self) -> slice:
        """The keys behind the video, or else the last few."""
        own = self.grid.suffix or min(SHOWN_AS_TEXT, len(self.grid) // 2)
        return slice(len(self.grid) - own, len(self.grid))

    @property
    def bytes(self) -> int:
        return sum(x.nbytes for x in (self.q, self.k, self.v))

    def sdpa(self) -> Tensor:
        """What everything is held against."""
        return scaled_dot_product_attention(self.q, self.k, self.v)


def make_problem(shape: Shape, device: torch.device, dtype: torch.dtype) -> Problem:
    """Gaussian noise, the same in every run on the same device."""
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = (
        torch.randn(shape.axes, generator=generator, device=device, dtype=dtype) for _ in range(3)
    )
    return Problem(q, k, v, shape.grid)
