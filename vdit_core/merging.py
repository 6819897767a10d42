"""Several samplings as one record: their videos are numbered one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .record import CrossMeasurement, Header, Measurement, RecordData


def merged(records: Sequence[RecordData]) -> RecordData:
    """One record of at least one, under the first one's header.

    Raises ValueError if a record's numbers cannot stand beside those of the first.
    """
    first = records[0]
    if len(records) == 1:
        return first
    measurements: list[Measurement] = []
    cross: list[CrossMeasurement] = []
    videos = 0
    for number, data in enumerate(records):
        _check(first.header, data.header, number)
        for m in data.measurements:
            grid = data.header_of(m).grid
            own = None if grid == first.header.grid else grid
            measurements.append(replace(m, item=m.item + videos, grid=own))
        cross += [replace(m, item=m.item + videos) for m in data.cross]
        videos = 1 + max((m.item for m in (*measurements, *cross)), default=-1)
    return replace(first, measurements=tuple(measurements), cross=tuple(cross))


def first_difference(first: Header, second: Header) -> tuple[str, object, object] | None:
    """In what two were measured differently, schedules apart: a name, and what it is in each."""
    settings = ("map_size", "tau", "rate")
    facts = {
        "the model": (first.model, second.model),
        "the video": (_video(first), _video(second)),
        "frames": (_window(first), _window(second)),
    } | {setting: (getattr(first, setting), getattr(second, setting)) for setting in settings}
    unlike = ((what, one, other) for what, (one, other) in facts.items() if one != other)
    return next(unlike, None)


def _check(first: Header, header: Header, number: int) -> None:
    difference = first_difference(first, header)
    if difference is None and header.steps != first.steps:
        difference = "the schedule", f"{first.steps} steps", f"{header.steps} steps"
    if difference is not None:
        what, before, now = difference
        raise ValueError(
            f"records: {what} of record {number} is {now}, but {before} in record 0 (counted from "
            "0); numbers can stand beside each other where model, size, steps and the settings of "
            "VDiT Capture are the same: make them alike and sample again"
        )


def _video(header: Header) -> str:
    grid = header.grid
    return f"{grid.frames} frames of {grid.rows} × {grid.cols} tokens"


def _window(header: Header) -> str:
    return "all" if header.window is None else f"{header.window[0]}-{header.window[1]}"
