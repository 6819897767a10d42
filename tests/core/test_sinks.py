"""Sinks in records whose coverage is known: which heads, how often, where; pictures and words."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.attention import MapMeasures
from vdit_attention.vdit_core.figures.sinks import VIEWS, draw_sinks, sinks_report, sinks_table
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.record import (
    Header,
    Measurement,
    RecordData,
    load_record,
    save_record,
)
from vdit_attention.vdit_core.selection import parse_selection
from vdit_attention.vdit_core.sinks import Place, Sinks, find_sinks, heat_of_places
from vdit_attention.vdit_core.sites import Excerpt

LAYERS, HEADS, STEPS = 3, 4, 4
GRID = TokenGrid(2, 3, 5, prefix=1, suffix=4, text=(32, 35))
HEADER = Header("Mochi", LAYERS, HEADS, GRID, 8, (1.0, 0.7, 0.4, 0.2, 0.0), None, 0.3, 0.7)
ALWAYS, HALF, ONCE = (0, 1), (2, 0), (2, 3)  # layer and head of sinks
IN_FRAME_1 = 1 + 15 + 7  # prefix, frame 0; row 1, col 2


def coverage(head: tuple[int, int], step: int, item: int) -> float:
    if head == ALWAYS:
        return 0.8
    if head == HALF:
        return 0.8 if step < 2 else 0.5  # exactly half is not over half
    return 0.9 if (*head, step, item) == (*ONCE, 3, 1) else 0.1


def key(head: tuple[int, int]) -> int:
    return {ALWAYS: IN_FRAME_1, HALF: 33, ONCE: 0}.get(head, 1)


def call(layer: int, step: int, item: int, branch: str = "cond", **more: Any) -> Measurement:
    heads = [(layer, head) for head in range(HEADS)]
    numbers: dict[str, Tensor] = {
        "coverage": torch.tensor([coverage(head, step, item) for head in heads]),
        "coverage_key": torch.tensor([key(head) for head in heads]),
        "value_norms": torch.tensor(
            [[0.02 if head in (ALWAYS, HALF, ONCE) else 1.1, 2.0] for head in heads]
        ),
    }
    first = [torch.rand(HEADS, *shape) for shape in ((3, 3), (3,), (), (), ())]
    measures = MapMeasures(*first, **numbers)
    name, sigma = f"blocks.{layer}.attn", HEADER.sigmas[step]
    return Measurement(name, layer, step, 0, sigma, branch, item, (0, 1, 2, 3), measures, **more)


def record(**changed: Any) -> RecordData:
    calls = (
        call(layer, step, item, branch)
        for step in range(STEPS)
        for item in range(2)
        for branch in ("cond", "uncond")
        for layer in range(LAYERS)
    )
    return RecordData(replace(HEADER, **changed), tuple(calls))


def found(data: RecordData | None = None, **asked: Any) -> Sinks:
    asked = {"weight": 0.3, "coverage": 0.5, "frequency": 0.5, "branch": "both"} | asked
    steps = parse_selection(asked.pop("steps", "all"), "steps")
    return find_sinks(data or record(), steps=steps, **asked)


def test_a_head_is_listed_if_it_is_a_sink_in_so_many_calls() -> None:
    sinks = found()
    assert sinks.shares[ALWAYS] == 1 and sinks.shares[HALF] == 0.5
    assert sinks.shares[ONCE] == 1 / 8
    assert sum(share > 0 for share in sinks.shares.values()) == 3
    assert len(sinks.shares) == LAYERS * HEADS
    assert sinks.heads == {0: (1,), 2: (0,)} and sinks.text == "0:1; 2:0"


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"frequency": 0.51}, "0:1"),
        ({"frequency": 0.125}, "0:1; 2:0,3"),
        ({"frequency": 0.01}, "0:1; 2:0,3"),
        ({"coverage": 0.85}, "none"),
        ({"coverage": 0.85, "frequency": 0.1}, "2:3"),
        ({"coverage": 0.05}, "all:*"),
        ({"steps": "2-3"}, "0:1"),
        ({"steps": "mid"}, "0:1"),
        ({"steps": "0", "branch": "uncond"}, "0:1; 2:0"),
    ],
)
def test_every_input_counts(asked: Mapping[str, Any], text: str) -> None:
    assert found(**asked).text == text


def test_places_are_told_by_kind() -> None:
    places = {(s.layer, s.head): s.place for s in found().sightings}
    assert places[ALWAYS] == Place("video", 22, 1, 1, 2)
    assert places[HALF] == Place("text", 1)
    assert places[ONCE] == Place("other", 0)
    picture, by_frame = heat_of_places(found())
    assert picture.sum() == 16 and picture[1, 2] == 16
    assert by_frame.tolist() == [0, 16]


def test_an_excerpt_and_an_area_are_put_in_their_place() -> None:
    later = call(0, 0, 0, excerpt=Excerpt((3, 4), 6))
    area = call(0, 1, 0, grid=TokenGrid(2, 4, 5, prefix=1, suffix=4, text=(42, 45)))
    sinks = found(RecordData(HEADER, (later, area)))
    picture, by_frame = heat_of_places(sinks)
    assert by_frame.tolist() == [0, 0, 0, 0, 1, 0]  # the area's is of another size
    assert picture.sum() == 1


@pytest.mark.parametrize(
    ("data", "asked", "words"),
    [
        (
            record(),
            {"weight": 0.5},
            "weight: got 0.5, but this record counted weights of 0.3 or more; set tau = 0.5 on "
            "VDiT Capture and sample again, or weight = 0.3 here",
        ),
        (
            RecordData(
                HEADER, (replace(call(0, 0, 0), measures=MapMeasures(*[torch.ones(4)] * 5)),)
            ),
            {},
            "turn on sinks on VDiT Capture and sample again",
        ),
        (RecordData(HEADER, ()), {}, "it holds no calls"),
        (RecordData(HEADER, (call(0, 0, 0),)), {"steps": "3"}, "captured were steps 0 of cond"),
        (RecordData(HEADER, (call(0, 0, 0),)), {"branch": "uncond"}, "of branch 'uncond'"),
        (record(), {"branch": "sideways"}, "allowed are both, cond, uncond"),
        (record(), {"steps": "4"}, "step 4, but this record's sampling has steps 0 to 3"),
    ],
)
def test_what_is_missing_is_said(data: RecordData, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        found(data, **asked)
    assert words in str(error.value)


@pytest.mark.parametrize("view", VIEWS)
def test_a_record_from_a_file_gives_the_same_bits(view: str, tmp_path: Path) -> None:
    data = record()
    save_record(data, tmp_path / "a.safetensors")
    again = load_record(tmp_path / "a.safetensors")
    image = draw_sinks(found(data), view)
    assert image.ndim == 4 and image.shape[-1] == 3
    assert torch.equal(image, draw_sinks(found(again), view))
    assert sinks_table(found(again)).csv() == sinks_table(found(data)).csv()
    assert not torch.equal(image, draw_sinks(found(data, coverage=0.85), view))


@pytest.mark.parametrize("view", VIEWS)
def test_a_record_without_sinks_is_drawn_too(view: str) -> None:
    sinks = found(coverage=0.95)
    assert not sinks.seen and sinks.text == "none"
    assert draw_sinks(sinks, view).isfinite().all()


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed are heads, steps, values, places"):
        draw_sinks(found(), "sideways")


def test_the_report_says_which_heads_and_where_they_look() -> None:
    report = sinks_report(found())
    assert report.startswith("Sinks: 0:1; 2:0\n2 of 12 heads, in 50 % of their calls or more; ")
    assert "steps 0-3 · cond, uncond · 2 videos · Mochi with 3 layers of 4 heads" in report
    rows = [line.split() for line in report.splitlines()]
    assert ["0", "1", "100", "80", "0.02", "2", *"frame 1, row 1, col 2".split()] in rows
    assert "text token 1" in report and "other token 0" in report
    assert "the most that give one token so much are 90.0 %, in layer 2, head 3" in sinks_report(
        found(coverage=0.95)
    )


def test_the_table_has_every_head_of_every_call() -> None:
    rows = list(csv.DictReader(io.StringIO(sinks_table(found()).csv())))
    assert len(rows) == STEPS * 2 * 2 * LAYERS * HEADS
    (once,) = [
        row
        for row in rows
        if row["sink"] == "1"
        and row["branch"] == "uncond"
        and (row["layer"], row["head"]) == ("2", "3")
    ]
    assert (once["video"], once["step"], once["token"], once["frame"]) == ("1", "3", "other", "")
    assert float(once["coverage at 0.3"]) == pytest.approx(0.9)
    assert float(once["norm of V there"]) == pytest.approx(0.02)
