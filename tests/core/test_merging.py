"""Records side by side: videos renumbered, other settings refused, lists in one mailbox."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from vdit_attention.vdit_core.attention import MapMeasures
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.merging import merged
from vdit_attention.vdit_core.record import Header, Measurement, Record, RecordData, Turn

GRID, LONGER = TokenGrid(2, 3, 5, 0, 4, (30, 34)), TokenGrid(2, 3, 5, 0, 7, (30, 37))
HEADER = Header("Mochi", 3, 4, GRID, 64, (1.0, 0.6, 0.0), None, 0.3, 0.7)
QUEUE = ("prompt", "node")


def measurement(item: int, grid: TokenGrid | None = None) -> Measurement:
    measures = MapMeasures(*(torch.rand(2, *shape) for shape in ((3, 3), (3,), (), (), ())))
    return Measurement("blocks.0.attn", 0, 1, 0, 0.6, "cond", item, (0, 1), measures, grid)


def data(items: int = 1, grid: TokenGrid = GRID, **changed: Any) -> RecordData:
    header = replace(HEADER, grid=grid, **changed)
    return RecordData(header, tuple(measurement(item) for item in range(items)))


def items(found: RecordData) -> list[int]:
    return [m.item for m in found.measurements]


def test_videos_are_numbered_one_after_the_other() -> None:
    first, second, third = data(2), data(1), data(2)
    found = merged([first, second, third])
    assert items(found) == [0, 1, 2, 3, 4]
    parts = [*first.measurements, *second.measurements, *third.measurements]
    assert all(a.measures is b.measures for a, b in zip(found.measurements, parts, strict=True))
    assert found.header == HEADER


def test_a_longer_prompt_keeps_its_own_grid() -> None:
    found = merged([data(), data(grid=LONGER), data()])
    assert [m.grid for m in found.measurements] == [None, LONGER, None]
    assert [found.header_of(m).grid for m in found.measurements] == [GRID, LONGER, GRID]
    back = merged([data(grid=LONGER), data()])
    assert [back.header_of(m).grid for m in back.measurements] == [LONGER, GRID]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"family": "Wan"}, "the model of record 1 is Wan with 3 layers of 4 heads, but Mochi"),
        ({"heads": 5}, "the model of record 1 is Mochi with 3 layers of 5 heads"),
        ({"grid": TokenGrid(3, 3, 5)}, "the video of record 1 is 3 frames of 3 × 5 tokens, but 2"),
        ({"map_size": 32}, "map_size of record 1 is 32, but 64 in record 0"),
        ({"tau": 0.5}, "tau of record 1 is 0.5, but 0.3 in record 0"),
        ({"rate": 0.5}, "rate of record 1 is 0.5, but 0.7 in record 0"),
        ({"window": (0, 0)}, "frames of record 1 is 0-0, but all in record 0"),
        ({"sigmas": (1.0, 0.0)}, "the schedule of record 1 is 1 steps, but 2 steps in record 0"),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused_in_words(
    changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError) as error:
        merged([data(), data(**changed)])
    assert str(error.value).startswith("records: ") and words in str(error.value)
    assert str(error.value).endswith("make them alike and sample again")


def sampled(record: Record, turn: Turn | None) -> None:
    record.begin(turn)
    record.seal(data())


def test_a_mailbox_keeps_every_sampling_of_one_list() -> None:
    record = Record()
    for index in range(3):
        sampled(record, Turn(QUEUE, index))
    assert items(record.data) == [0, 1, 2]
    assert [items(record.entry(Turn(("prompt", "other"), n))) for n in range(3)] == [[0]] * 3


@pytest.mark.parametrize(
    "later",
    [
        Turn(QUEUE, 0),
        Turn(("another queue", "node"), 1),
        Turn(("prompt", "another node"), 1),
        None,
    ],
)
def test_any_other_sampling_starts_afresh(later: Turn | None) -> None:
    record = Record()
    for index in range(2):
        sampled(record, Turn(QUEUE, index))
    sampled(record, later)
    assert items(record.data) == [0]


def test_an_entry_that_is_sampled_twice_counts_once() -> None:
    record = Record()
    for index in (0, 1, 1):
        sampled(record, Turn(QUEUE, index))
    assert items(record.data) == [0, 1]


def test_a_second_sampler_goes_on_with_its_own_entry() -> None:
    record = Record()
    for index in range(2):
        sampled(record, Turn(QUEUE, index))
    first, second = (record.entry(Turn(("prompt", "second"), n)) for n in range(2))
    assert first.measurements[0].measures is record.data.measurements[0].measures
    assert second.measurements[0].measures is record.data.measurements[1].measures
