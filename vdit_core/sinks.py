"""Which heads of a record are attention sinks: most queries look at one token (2504.10317, §5).

A head is a sink in one call if more than `coverage` of its queries give one token a weight of
`weight` or more; it is one of the record's if that holds in a share of the calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .record import Header, Measurement, RecordData
from .selection import Selection, write_heads
from .sites import BRANCHES

SWITCH = "coverage", "coverage_key", "value_norms"


@dataclass(frozen=True)
class Place:
    """The most attended token of a head. kind: "video", "text" or "other".

    frame, row, col: of a video token, in the whole video. number: of the token among its kind.
    """

    kind: str
    number: int
    frame: int | None = None
    row: int | None = None
    col: int | None = None


@dataclass(frozen=True)
class Sighting:
    """One head in one call. norm, others: of V at the token, and the mean of all other tokens."""

    call: Measurement
    head: int
    coverage: float
    sink: bool
    place: Place
    norm: float
    others: float

    @property
    def layer(self) -> int:
        return self.call.layer


@dataclass(frozen=True)
class Sinks:
    """Every head of every call that was asked for, and which of them are sinks how often."""

    header: Header
    weight: float
    coverage: float
    frequency: float
    sightings: tuple[Sighting, ...]

    @cached_property
    def seen(self) -> tuple[Sighting, ...]:
        """The sightings in which the head is a sink."""
        return tuple(s for s in self.sightings if s.sink)

    @cached_property
    def shares(self) -> Mapping[tuple[int, int], float]:
        """By layer and head, in how many of its calls it is a sink."""
        counts: dict[tuple[int, int], list[bool]] = {}
        for s in self.sightings:
            counts.setdefault((s.layer, s.head), []).append(s.sink)
        return {head: sum(found) / len(found) for head, found in sorted(counts.items())}

    @cached_property
    def heads(self) -> Mapping[int, tuple[int, ...]]:
        """The heads, by layer, that are sinks in the wanted share of their calls."""
        found: dict[int, list[int]] = {}
        for (layer, head), share in self.shares.items():
            if share and share >= self.frequency:
                found.setdefault(layer, []).append(head)
        return {layer: tuple(heads) for layer, heads in found.items()}

    @property
    def text(self) -> str:
        """The heads in the grammar of heads, or `none`."""
        return write_heads(self.heads, (self.header.heads,) * self.header.layers)

    def is_listed(self, layer: int, head: int) -> bool:
        return head in self.heads.get(layer, ())


def find_sinks(
    data: RecordData,
    *,
    weight: float,
    coverage: float,
    frequency: float,
    steps: Selection,
    branch: str,
) -> Sinks:
    """Raises ValueError for a record that lacks what is asked."""
    if branch not in BRANCHES:
        raise ValueError(f"branch: got {branch!r}, allowed are {', '.join(BRANCHES)}")
    _check(data, weight)
    at = set(steps.resolve(data.header.steps, "this record's sampling"))
    calls = [m for m in data.measurements if m.step in at and branch in ("both", m.branch)]
    if not calls:
        captured = ", ".join(map(str, sorted({m.step for m in data.measurements})))
        branches = ", ".join(sorted({m.branch for m in data.measurements}))
        raise ValueError(
            f"steps: nothing was captured at steps {steps.text!r} of branch {branch!r}; captured "
            f"were steps {captured} of {branches}; choose among these, or capture others"
        )
    sightings = (s for m in calls for s in _sightings(data, m, coverage))
    return Sinks(data.header, weight, coverage, frequency, tuple(sightings))


def _check(data: RecordData, weight: float) -> None:
    if not data.measurements:
        raise ValueError("record: it holds no calls; choose layers and steps on VDiT Capture")
    if any(getattr(m.measures, name) is None for m in data.measurements for name in SWITCH):
        raise ValueError(
            "record: the tokens that heads look at were not captured; turn on sinks on VDiT "
            "Capture and sample again"
        )
    tau = data.header.tau
    if tau is not None and abs(tau - weight) > 1e-6:
        raise ValueError(
            f"weight: got {weight:g}, but this record counted weights of {tau:g} or more; set "
            f"tau = {weight:g} on VDiT Capture and sample again, or weight = {tau:g} here"
        )


def _sightings(data: RecordData, m: Measurement, least: float) -> list[Sighting]:
    measures = m.measures
    coverage, key, norms = measures.coverage, measures.coverage_key, measures.value_norms
    assert coverage is not None and key is not None and norms is not None  # checked above
    each = coverage.tolist(), _places(data, m, key), norms.tolist()
    return [
        Sighting(m, head, share, share > least, place, *pair)
        for head, share, place, pair in zip(m.heads, *each, strict=True)
    ]


def _places(data: RecordData, m: Measurement, tokens: Tensor) -> list[Place]:
    grid, found = data.header_of(m).grid, list[Place]()
    for token, *place in torch.stack([tokens, *grid.unravel(tokens)], 1).tolist():
        if grid.video.start <= token < grid.video.stop:
            if m.excerpt is not None and place[0] < len(m.excerpt.frames):
                place[0] = m.excerpt.frames[place[0]]
            found.append(Place("video", token - grid.prefix, *place))
        elif grid.text is not None and grid.text[0] <= token < grid.text[1]:
            found.append(Place("text", token - grid.text[0]))
        else:
            found.append(Place("other", token if token < grid.prefix else token - grid.video.stop))
    return found


def heat_of_places(sinks: Sinks) -> tuple[Tensor, Tensor]:
    """How many sinks lie at each place of the picture [R, C], and in each frame [F], int64.

    Calls whose picture has another size (areas with prompts of their own) are left out.
    """
    grid = sinks.header.grid
    frames = max([grid.frames, *(s.call.excerpt.of for s in sinks.seen if s.call.excerpt)])
    picture = torch.zeros(grid.rows, grid.cols, dtype=torch.int64)
    by_frame = torch.zeros(frames, dtype=torch.int64)
    for s in sinks.seen:
        own = s.call.grid or grid
        place = s.place
        if (own.rows, own.cols) == (grid.rows, grid.cols) and place.frame is not None:
            picture[place.row, place.col] += 1
            by_frame[place.frame] += 1
    return picture, by_frame
