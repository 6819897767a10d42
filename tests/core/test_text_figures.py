"""VDiT Text Attention against planted numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.attention import MapMeasures, TextMeasures
from vdit_attention.vdit_core.figures.panels import Chosen
from vdit_attention.vdit_core.figures.text_attention import draw_text_attention, text_of_layers
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.record import CrossMeasurement, Header, Measurement, RecordData
from vdit_attention.vdit_core.selection import parse_selection

WORDS = ["a", "red", "circle", "</s>"]
HEADS = 2


def chosen(layer: str = "all") -> Chosen:
    layers, step = parse_selection(layer, "layers"), parse_selection("mid", "steps")
    return Chosen(layers, "mean", step, "both")


def header() -> Header:
    return Header("Some", 3, HEADS, TokenGrid(2, 3, 3), 18, (1.0, 0.5, 0.0))


def own(layer: int, text: Tensor | None, tokens: int | None) -> Measurement:
    mean = torch.rand(HEADS)
    measures = MapMeasures(
        torch.rand(HEADS, 18, 18),
        torch.rand(HEADS, 18),
        mean,
        mean,
        mean,
        text_mass=text,
        text_own_mass=None if text is None else 2 * text,
    )
    name = f"blocks.{layer}.attn"
    what = name, layer, 1, 0, 0.5, "cond", 0, (0, 1)
    return Measurement(*what, measures, tokens=tokens)


def cross(layer: int, text: Tensor, tokens: int) -> CrossMeasurement:
    name = f"blocks.{layer}.cross_attn"
    what = name, layer, 1, 0, 0.5, "cond", 0, (0, 1)
    return CrossMeasurement(*what, TextMeasures(text, torch.rand(HEADS)), tokens=tokens)


def mass(*shares: float) -> Tensor:
    """[HEADS, T]: the second head gives half as much."""
    return torch.tensor([shares, [x / 2 for x in shares]])


@pytest.fixture
def joint() -> RecordData:
    planted = [mass(0.06, 0.02, 0.01, 0.01), mass(0.01, 0.07, 0.01, 0.01)]
    return RecordData(header(), tuple(own(n, text, 4) for n, text in enumerate(planted)))


@pytest.fixture
def outside() -> RecordData:
    planted = [mass(0.1, 0.2, 0.1, 0.2, 0.1, 0.3), mass(0.3, 0.1, 0.1, 0.1, 0.2, 0.2)]
    video = tuple(own(n, None, None) for n in range(2))
    return RecordData(header(), video, tuple(cross(n, text, 4) for n, text in enumerate(planted)))


def test_shares_are_those_of_what_the_text_receives(joint: RecordData) -> None:
    _, (first, second) = text_of_layers(joint, chosen())
    torch.testing.assert_close(first.share, torch.tensor([0.6, 0.2, 0.1, 0.1]).double())
    torch.testing.assert_close(second.share, torch.tensor([0.1, 0.7, 0.1, 0.1]).double())
    assert first.mass == pytest.approx(0.075) and first.own_mass == pytest.approx(0.15)
    drawn = draw_text_attention(joint, chosen(), words=WORDS)
    assert "first token 'a': 35.0 %, mean of 2 layers; an even share of 4" in drawn.report
    assert [line.split()[4] for line in drawn.report.splitlines()[-2:]] == ["a", "red"]


def test_every_number_is_in_the_table(joint: RecordData) -> None:
    rows = draw_text_attention(joint, chosen("1"), words=WORDS).table.rows
    assert [(row[4], row[6]) for row in rows] == [(h, w) for h in (0, 1) for w in WORDS]
    assert [row[7] for row in rows[:4]] == pytest.approx([1, 7, 1, 1])
    assert [row[8] for row in rows[4:]] == pytest.approx([1, 7, 1, 1])


def test_padding_is_one_sum_and_no_word(outside: RecordData) -> None:
    drawn = draw_text_attention(outside, chosen(), words=WORDS)
    rows = [row for row in drawn.table.rows if row[3] == 0 and row[4] == 0]
    assert [row[6] for row in rows] == [*WORDS, "padding", "padding"]
    assert all(row[8] is None for row in rows)
    assert [line.split()[-1] for line in drawn.report.splitlines()[-2:]] == ["40", "40"]


def test_more_tokens_than_asked_for_are_one_sum(outside: RecordData) -> None:
    few, all_of_them = (draw_text_attention(outside, chosen(), most=n) for n in (2, 24))
    assert few.image.shape != all_of_them.image.shape
    assert few.report == all_of_them.report and few.table == all_of_them.table
    for drawn in (few, all_of_them):
        assert bool((drawn.image[:, :, -4:] == 1).all())


def test_without_words_tokens_are_numbered(joint: RecordData) -> None:
    rows = draw_text_attention(joint, chosen("0")).table.rows
    assert [row[6] for row in rows[:4]] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("words", [WORDS[:3], [*WORDS, "more"]])
def test_words_of_another_prompt_are_refused(outside: RecordData, words: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"it has {len(words)} tokens, .* of this record has 4"):
        draw_text_attention(outside, chosen(), words=words)


def test_words_tell_where_padding_begins_if_nothing_else_does(joint: RecordData) -> None:
    unknown = [replace(m, tokens=None) for m in joint.measurements]
    data = replace(joint, measurements=tuple(unknown))
    rows = draw_text_attention(data, chosen("0"), words=WORDS[:2]).table.rows
    assert [row[6] for row in rows[:4]] == ["a", "red", "padding", "padding"]


def test_a_record_without_text_names_the_switch(outside: RecordData) -> None:
    with pytest.raises(ValueError, match="turn on text on VDiT Capture"):
        draw_text_attention(replace(outside, cross=()), chosen())
