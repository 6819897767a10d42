"""The sinks of a record as pictures, a report and a table (2504.10317, Fig. 9, 11, 12)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..sinks import Sighting, Sinks
from ..sites import in_runs
from .colours import ColourScale
from .heat_sheet import Words, draw_table
from .sink_places import draw_places
from .sink_values import draw_values
from .table import Cell, Table

_ROWS, _NEAREST = 40, 8  # heads in the picture of the steps, at most; where none is a sink
_LISTED = 24  # heads in the report, at most
_COLUMNS = (
    "layer",
    "head",
    "sink in % of calls",
    "coverage %",
    "norm of V there",
    "elsewhere",
    "most often at",
)
_PERCENT = ColourScale(0, 100, log=False, clipped=False)


def draw_sinks(sinks: Sinks, view: str) -> Tensor:
    """One of VIEWS, [1, H, W, 3]. Raises ValueError for another."""
    if view not in _DRAW:
        raise ValueError(f"view: got {view!r}, allowed are {', '.join(VIEWS)}")
    return _DRAW[view](sinks)


def sinks_report(sinks: Sinks) -> str:
    """What was counted, the heads that are sinks, where they look."""
    by_head, listed = _by_head(sinks), sum(map(len, sinks.heads.values()))
    shown = sorted(by_head, key=lambda head: _rank(sinks, by_head, head))[:_LISTED]
    lines = [
        f"Sinks: {sinks.text}",
        f"{listed} of {len(by_head)} heads, in {100 * sinks.frequency:g} % of their calls or more; "
        f"{calls_text(sinks)}",
        f"{_counted(sinks)}{_least(sinks)}",
        "",
        Table(_COLUMNS, [_row(sinks, head, by_head[head]) for head in sorted(shown)]).text(),
    ]
    if len(by_head) > _LISTED:
        lines.append(f"The {_LISTED} heads nearest to a sink are shown; csv has all.")
    return "\n".join(lines)


def sinks_table(sinks: Sinks) -> Table:
    """Every head of every call."""
    columns = ["video", "step", "evaluation", "branch", "prompt", "layer", "head"]
    columns += [f"coverage at {sinks.weight:g}", "sink", "token", "number", "frame", "row", "col"]
    columns += ["norm of V there", "mean norm elsewhere"]
    return Table(columns, [_cells(s) for s in sinks.sightings])


def calls_text(sinks: Sinks) -> str:
    """Over which calls was counted, and of which model: one line."""
    calls = {id(s.call): s.call for s in sinks.sightings}.values()
    steps = sorted({m.step for m in calls})
    named = in_runs(steps)
    when = f"{len(steps)} steps" if len(named) > 16 else f"step{'s' * (len(steps) > 1)} {named}"
    branches = ", ".join(sorted({m.branch for m in calls}))
    videos = len({m.item for m in calls})
    return f"{when} · {branches} · {videos} video{'s' * (videos > 1)} · {sinks.header.model}"


def _draw_heads(sinks: Sinks) -> Tensor:
    """Layer × head: in how many calls each is a sink."""
    layers = sorted({layer for layer, _ in sinks.shares})
    heads = sorted({head for _, head in sinks.shares})
    values = torch.full((len(layers), len(heads)), torch.nan, dtype=torch.float64)
    for (layer, head), share in sinks.shares.items():
        values[layers.index(layer), heads.index(head)] = 100 * share
    name = "calls with a sink (%)"
    words = Words(
        "Sinks by layer and head", calls_text(sinks), _counted(sinks) + _least(sinks), name
    )
    return draw_table(words, layers, heads, values, _PERCENT)


def _draw_steps(sinks: Sinks) -> Tensor:
    """Head × step: in how many videos and branches each is a sink."""
    by_head = _by_head(sinks)
    ranked = sorted(by_head, key=lambda head: _rank(sinks, by_head, head))
    ever = sum(share > 0 for share in sinks.shares.values())
    shown = ranked[: min(ever, _ROWS) or _NEAREST]
    steps = sorted({s.call.step for s in sinks.sightings})
    values = torch.full((len(shown), len(steps)), torch.nan, dtype=torch.float64)
    for row, head in enumerate(sorted(shown)):
        for column, step in enumerate(steps):
            found = [s.sink for s in by_head[head] if s.call.step == step]
            values[row, column] = 100 * sum(found) / len(found) if found else torch.nan
    which = "that ever are one" if ever and ever <= _ROWS else "nearest to one"
    more = f" Shown are the {len(shown)} heads of {len(by_head)} {which}."
    words = Words(
        "The same heads at every step?",
        calls_text(sinks),
        _counted(sinks) + _least(sinks) + more,
        "calls with a sink (%)",
        across="step",
        down="layer:head",
        beside="mean and range of the steps",
    )
    names = [f"{layer}:{head}" for layer, head in sorted(shown)]
    return draw_table(words, names, steps, values, _PERCENT)


def _draw_values(sinks: Sinks) -> Tensor:
    return draw_values(sinks, calls_text(sinks))


def _draw_places(sinks: Sinks) -> Tensor:
    return draw_places(sinks, calls_text(sinks))


_DRAW: Mapping[str, Callable[[Sinks], Tensor]] = {
    "heads": _draw_heads,
    "steps": _draw_steps,
    "values": _draw_values,
    "places": _draw_places,
}
VIEWS = tuple(_DRAW)


def _counted(sinks: Sinks) -> str:
    return (
        f"A head is a sink in a call where over {100 * sinks.coverage:g} % of the queries give one "
        f"token a weight of {sinks.weight:g} or more"
    )


def _least(sinks: Sinks) -> str:
    """Where there is no sink: how far from one they are."""
    if sinks.seen:
        return "."
    most = max(sinks.sightings, key=lambda s: s.coverage)
    share = f"{100 * most.coverage:.1f} %, in layer {most.layer}, head {most.head}"
    return f". There is none; the most that give one token so much are {share}."


def _by_head(sinks: Sinks) -> dict[tuple[int, int], list[Sighting]]:
    found: dict[tuple[int, int], list[Sighting]] = {}
    for s in sinks.sightings:
        found.setdefault((s.layer, s.head), []).append(s)
    return found


def _rank(
    sinks: Sinks, by_head: Mapping[tuple[int, int], Sequence[Sighting]], head: tuple[int, int]
) -> tuple[float, float]:
    """The nearer to a sink, the earlier."""
    return -sinks.shares[head], -max(s.coverage for s in by_head[head])


def _row(sinks: Sinks, head: tuple[int, int], found: Sequence[Sighting]) -> list[Cell]:
    count = len(found)
    coverage, norm, others = (
        sum(numbers) / count
        for numbers in zip(*((s.coverage, s.norm, s.others) for s in found), strict=True)
    )
    ((place, _),) = Counter(_place_text(s) for s in found).most_common(1)
    return [*head, 100 * sinks.shares[head], 100 * coverage, norm, others, place]


def _place_text(s: Sighting) -> str:
    place = s.place
    if place.kind != "video":
        return f"{place.kind} token {place.number}"
    return f"frame {place.frame}, row {place.row}, col {place.col}"


def _cells(s: Sighting) -> list[Cell]:
    m, place = s.call, s.place
    when: list[Cell] = [m.item, m.step, m.evaluation, m.branch, m.prompt, m.layer, s.head]
    where: list[Cell] = [place.kind, place.number, place.frame, place.row, place.col]
    return [*when, s.coverage, int(s.sink), *where, s.norm, s.others]
