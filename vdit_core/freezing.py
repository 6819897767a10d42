"""What a run keeps of itself for heads whose map is frozen: Q and K of one step."""

from __future__ import annotations

from collections.abc import Sequence

from .edits.freeze import Freeze
from .operands import Operands
from .program import Edit
from .sites import Call
from .sources import Kept
from .steps import Schedule

_Row = tuple[object, ...]


class Frozen:
    """The memory of one run: every row at the first evaluation of the step that was asked for."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._kept: dict[_Row, tuple[int, Kept]] = {}

    def check(self, edit: Edit) -> None:
        """Raises ValueError, before sampling, for a step after which there is none."""
        assert isinstance(edit.change, Freeze)
        last = self._schedule.steps - 2
        if edit.change.pivot > last:
            raise ValueError(
                f"{edit.asker.name}: pivot_step is {edit.change.pivot}, but this sampler has "
                f"{self._schedule.steps} steps, and at least one must follow; allowed is 0 to "
                f"{last}"
            )

    def hear(self, edits: Sequence[Edit], call: Call, x: Operands) -> None:
        """Keep the rows of a call that these edits freeze, if its step has come."""
        for edit in edits:
            assert isinstance(edit.change, Freeze)
            if call.sigma > self._schedule.sigmas[edit.change.pivot] * (1 + 1e-4):
                continue
            for row in call.rows(edit.branch).nonzero()[:, 0].tolist():
                kept = Kept(x.q[row].clone(), x.k[row].clone(), x.own_mask(row))
                self._kept.setdefault(_row(edit, call, row), (call.evaluation, kept))

    def ready(self, edit: Edit, call: Call) -> bool:
        """Whether a call comes after the evaluation whose map it is to use."""
        return any(
            (found := self._kept.get(_row(edit, call, row))) and found[0] < call.evaluation
            for row in range(len(call.items))
        )

    def get(self, edit: Edit, call: Call, row: int) -> Kept:
        return self._kept[_row(edit, call, row)][1]


def _row(edit: Edit, call: Call, row: int) -> _Row:
    assert isinstance(edit.change, Freeze)
    return call.site, edit.change.pivot, *call.label(row), call.excerpt
