"""Which heads an edit acts on, where normalised row entropy is to tell: of a run, or of a record.

The entropy of a row is divided by the logarithm of the keys it may look at, and averaged over rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from .attention import key_counts, measure
from .entropy import levels_of
from .operands import Operands
from .program import Edit
from .ranking import Numbers, Ranked, share_of
from .record import RecordData
from .selection import parse_selection
from .sites import Call, Layout, Site, in_runs
from .steps import Schedule

Heads = Mapping[Site, tuple[int, ...]]
_Asked = tuple[int, str, bool]  # first steps, branch, and whether only the sources of pairs


@dataclass
class _Sum:
    """Of the entropies [H] of some rows."""

    total: Tensor | float = 0.0
    rows: int = 0


@dataclass(frozen=True)
class Choice:
    """What was chosen by layer, of which numbers. said: the same in words for the node."""

    heads: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    said: str = ""


class Choosing:
    """The memory of one run: the entropies of its first steps, and what its edits chose by them.

    Edits that ask for the same steps and rows share their numbers. A step is over when the model is
    first evaluated at the noise level of the next, or below.
    """

    def __init__(self, among: Mapping[Edit, Heads], schedule: Schedule) -> None:
        self._among, self._schedule = among, schedule
        self._sums: dict[_Asked, dict[Site, _Sum]] = defaultdict(lambda: defaultdict(_Sum))
        self._choices: dict[Edit, Choice] = {}

    def check(self, edit: Edit) -> None:
        """Raises ValueError, before sampling, where no step is left to act in."""
        steps, first, name = self._schedule.steps, _ranked(edit).steps, edit.asker.name
        if first >= steps:
            raise ValueError(
                f"{name}: first_steps is {first}, but this sampler has {steps} steps, and at least "
                "one must follow those that are measured; lower it, or choose selection from record"
            )
        window = edit.window
        if not any(self._schedule.inside(window, s) for s in self._schedule.sigmas[first:steps]):
            raise ValueError(
                f"{name}: of the steps after the first {first}, which are measured, none falls "
                f"between start_percent {window.start_percent} and end_percent "
                f"{window.end_percent}; widen the window, or choose selection from record"
            )

    @property
    def pending(self) -> list[Edit]:
        """Edits whose heads are not chosen yet."""
        return [edit for edit in self._among if edit not in self._choices]

    def hear(self, call: Call, x: Operands) -> None:
        """Measure a call of the first steps, or choose if it comes after them."""
        for edit in self.pending:
            if call.sigma <= self._schedule.sigmas[_ranked(edit).steps] * (1 + 1e-4):
                self._choices[edit] = self._choice(edit)
        wanted = {
            _asked(edit): rows
            for edit in self.pending
            if call.site in self._among[edit]
            if (rows := _rows(edit, call))
        }
        if not wanted:
            return
        every = sorted(set().union(*wanted.values()))
        found = dict(zip(every, entropy_shares(x, every), strict=True))
        for asked, rows in wanted.items():
            one = self._sums[asked][call.site]
            one.total = one.total + sum(found[row] for row in rows)
            one.rows += len(rows)

    def heads(self, edit: Edit) -> Heads:
        """Where an edit acts; nowhere before it has been chosen."""
        if edit not in self._choices:
            return {}
        chosen = self._choices[edit].heads
        return {site: chosen[site.layer] for site in self._among[edit] if site.layer in chosen}

    def report(self, edit: Edit) -> str:
        """What was chosen, in words for the node."""
        return self._choices[edit].said

    def _choice(self, edit: Edit) -> Choice:
        sums, ranked = self._sums[_asked(edit)], _ranked(edit)
        numbers = {
            site.layer: {head: float(one.total[head]) / one.rows for head in heads}
            for site, heads in self._among[edit].items()
            if isinstance((one := sums[site]).total, Tensor)
        }
        first = "the first step" if ranked.steps == 1 else f"the first {ranked.steps} steps"
        return chosen_of(numbers, ranked, f"on {first}")


def entropy_shares(x: Operands, rows: Sequence[int]) -> Tensor:
    """Row entropy over log(allowed keys) of the model's own map, mean over queries. [rows, H]"""
    found = measure(x.q, x.k, wants="entropy", rows=[*rows], mask=x.mask, scale=x.scale)["entropy"]
    most = key_counts(x.mask, x.q, x.k, rows).clamp(min=2).double().log()
    return (found.double() / most.to(found.device)).mean(-1).cpu()


def recorded_shares(data: RecordData) -> Numbers:
    """The same of a record, mean of all its calls."""
    levels = levels_of(data, "entropy share", parse_selection("all", "steps"), "both")
    return {n: {h: value / 100 for h, value in own.items()} for n, own in levels.numbers.items()}


def chosen_by_record(data: RecordData, ranked: Ranked, layout: Layout) -> Choice:
    """What a record of this model tells at once. Raises ValueError for that of another."""
    header, heads = data.header, layout.heads
    if (header.family, header.layers, header.heads) != (layout.family, len(heads), max(heads)):
        raise ValueError(
            f"record: it is of {header.model}, but this model is {layout.family} with "
            f"{len(heads)} layers of {max(heads)}; capture a sampling of this model"
        )
    numbers = recorded_shares(data)
    where = "in the record"
    if len(numbers) < len(heads):
        where += f", which holds layers {in_runs(numbers)}"
    choice = chosen_of(numbers, ranked, where)
    if ranked.granularity == "heads":
        return choice
    return replace(choice, heads={layer: tuple(range(heads[layer])) for layer in choice.heads})


def chosen_of(numbers: Numbers, ranked: Ranked, where: str) -> Choice:
    """The share of the highest or lowest numbers, and what there is to say of it."""
    heads = share_of(numbers, ranked.share, ranked.side, ranked.granularity)
    if not heads:
        return Choice()
    said = f"{ranked.side} normalised entropy {where}: "
    if ranked.granularity == "layers":
        means = {layer: sum(own.values()) / len(own) for layer, own in numbers.items()}
        others = {layer: mean for layer, mean in means.items() if layer not in heads}
        said += f"layers {_listed((n, means[n]) for n in heads)}"
        return Choice(heads, said + (f"; not {_listed(others.items())}" if others else ""))
    named = "; ".join(f"{layer}:{','.join(map(str, own))}" for layer, own in heads.items())
    inside = [numbers[layer][head] for layer, own in heads.items() for head in own]
    return Choice(heads, f"{said}heads {named} ({min(inside):.3f} to {max(inside):.3f})")


def _listed(numbers: Iterable[tuple[int, float]]) -> str:
    return ", ".join(f"{layer} ({number:.3f})" for layer, number in numbers)


def _ranked(edit: Edit) -> Ranked:
    assert edit.ranked is not None
    return edit.ranked


def _asked(edit: Edit) -> _Asked:
    return _ranked(edit).steps, edit.branch, edit.change.pairs


def _rows(edit: Edit, call: Call) -> list[int]:
    """The rows of a call that count: of its branch, and of pairs the sources."""
    rows = call.rows(edit.branch)
    if edit.change.pairs:
        rows = rows & ~call.target_rows()
    return rows.nonzero()[:, 0].tolist()
