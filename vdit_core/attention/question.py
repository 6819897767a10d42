"""What is asked of a map: one frozen object that every implementation reads."""

from __future__ import annotations

from dataclasses import dataclass

from ..grid import TokenGrid


@dataclass(frozen=True)
class Question:
    """What is asked of each head. wants: fields of Measures. text: the keys that are text.

    tau: a weight counts as heavy from here on. rate: the quantile. window: first and last latent
    frame of the pooled map, None for all of them.
    """

    wants: frozenset[str]
    grid: TokenGrid | None
    text: slice | None
    map_size: int = 64
    window: tuple[int, int] | None = None
    tau: float = 0.3
    rate: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau: got {self.tau}, allowed is above 0 and at most 1")
        if not 0 < self.rate < 1:
            raise ValueError(f"rate: got {self.rate}, allowed is between 0 and 1")
        if self.map_size < 1:
            raise ValueError(f"map_size: got {self.map_size}, it must be at least 1")

    def asks(self, *fields: str) -> bool:
        return not self.wants.isdisjoint(fields)

    @property
    def map_grid(self) -> TokenGrid:
        assert self.grid is not None
        return self.grid if self.window is None else self.grid.window(*self.window)
