"""What a run remembers of heads that it flattens: the temperature of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .attention import cut, flattening
from .edits.flatten import Flatten
from .operands import Operands
from .program import Edit
from .sites import Call, Excerpt, Site

_Row = tuple[Site, Flatten, str, tuple[str, int, int], Excerpt | None]


class Flattened:
    """The memory of one run: temperatures from the first call of each row that an edit acts on."""

    def __init__(self, poll: Callable[[], None]) -> None:
        self._poll = poll
        self._temperatures: dict[_Row, Tensor] = {}  # [H]

    def hear(self, edits: Sequence[Edit], call: Call, x: Operands) -> None:
        """Find the temperatures of rows that these edits act on for the first time."""
        for edit in edits:
            rows = call.rows(edit.branch).nonzero()[:, 0].tolist()
            new = [row for row in rows if _row(edit, call, row) not in self._temperatures]
            if new:
                found = _solved(_flatten(edit), x, new, self._poll)
                self._temperatures |= {
                    _row(edit, call, row): own for row, own in zip(new, found, strict=True)
                }

    def solved(self, edit: Edit, call: Call) -> Flatten:
        """The change with the temperatures of a call."""
        ones = torch.ones(call.site.heads, dtype=torch.float64)
        keys = (_row(edit, call, row) for row in range(len(call.items)))
        found = torch.stack([self._temperatures.get(key, ones) for key in keys])
        return replace(_flatten(edit), solved=found)

    def report(self, edit: Edit, chosen: Mapping[Site, tuple[int, ...]]) -> str:
        """The temperatures of the chosen heads, layer by layer, in words for the node."""
        by_layer: dict[int, list[float]] = defaultdict(list)
        for (site, change, branch, *_), found in self._temperatures.items():
            if (change, branch) == (edit.change, edit.branch) and site in chosen:
                by_layer[site.layer] += found[list(chosen[site])].tolist()
        listed = (f"{n} ({min(own):.2f} to {max(own):.2f})" for n, own in sorted(by_layer.items()))
        return f"temperatures of layers {', '.join(listed)}"


def _solved(change: Flatten, x: Operands, rows: Sequence[int], poll: Callable[[], None]) -> Tensor:
    """[rows, H], of the map of all tokens or of the video among itself."""
    span = slice(None) if change.region == "all" else x.grid().video
    q, k, mask = x.q[:, :, span], x.k[:, :, span], cut(x.mask, span, span)
    return flattening(q, k, change.strength, rows=rows, mask=mask, scale=x.scale, poll=poll)


def _flatten(edit: Edit) -> Flatten:
    assert isinstance(edit.change, Flatten)
    return edit.change


def _row(edit: Edit, call: Call, row: int) -> _Row:
    return call.site, _flatten(edit), edit.branch, call.label(row), call.excerpt
