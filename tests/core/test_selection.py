"""The layer grammar: every form, every error in its own words, and set algebra on random texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vdit_attention.vdit_core.selection import (
    parse_heads,
    parse_selection,
    parse_where,
    write_heads,
)

HELP = "write all, none, mid, or numbers and ranges such as 0,3,19-21 or -4--1, with ! to exclude"

FORMS = {
    "all": range(10),
    "*": range(10),
    "none": (),
    "mid": (5,),
    "0": (0,),
    "0,3,7-9": (0, 3, 7, 8, 9),
    "9,0,0": (0, 9),
    "-1": (9,),
    "-4--1": (6, 7, 8, 9),
    "7--1": (7, 8, 9),
    "-10-2": (0, 1, 2),
    "4-4": (4,),
    "all,!4,!5": (0, 1, 2, 3, 6, 7, 8, 9),
    "!4": (0, 1, 2, 3, 5, 6, 7, 8, 9),
    "!2--1": (0, 1),
    "!mid": (0, 1, 2, 3, 4, 6, 7, 8, 9),
    "0-3,!1-2": (0, 3),
    "0-3,!1-2,2": (0, 2, 3),
    "!all": (),
    " 1 , 3-4 ": (1, 3, 4),
    "! 0-7": (8, 9),
}


@pytest.mark.parametrize("text", FORMS)
def test_a_text_chooses_these_of_ten(text: str) -> None:
    assert parse_selection(text, "layers").resolve(10) == tuple(FORMS[text])


MALFORMED = [
    "3;4",
    "a",
    "0-",
    "-",
    "1-2-3",
    "1,,2",
    "0,",
    "3 - 5",
    "1.5",
    "all none",
    "none,3",
    "!",
]


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_text_is_an_error_that_shows_the_grammar(text: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_selection(text, "layers")
    assert str(error.value).startswith("layers: cannot read ")
    assert str(error.value).endswith(f" in {text!r}; {HELP}")


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_text_is_an_error_that_shows_the_grammar(text: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_selection(text, "steps")
    assert str(error.value) == f"steps: the text is empty; {HELP}"


@pytest.mark.parametrize(("text", "index"), [("6", 6), ("0,6-7", 6), ("-7", -7), ("!9", 9)])
def test_an_index_that_does_not_exist_is_named_with_those_that_do(text: str, index: int) -> None:
    with pytest.raises(ValueError) as error:
        parse_selection(text, "layers").resolve(6)
    assert str(error.value) == (
        f"layers: {text!r} names layer {index}, but this model has layers 0 to 5 "
        "(or -6 to -1, counted from the end)"
    )


def test_a_range_that_runs_backwards_is_an_error() -> None:
    with pytest.raises(ValueError) as error:
        parse_selection("-1-2", "layers").resolve(6)
    assert str(error.value) == (
        "layers: '-1-2' has a range that runs backwards (5 to 2 of 6); "
        "write the smaller index first"
    )


def test_head_lists_join_the_heads_of_each_layer() -> None:
    chosen = parse_heads("4:*; 2:3 ; 2:0,-1; -1:mid;").resolve((4, 4, 8, 4, 2, 6))
    assert chosen == {2: (0, 3, 7), 4: (0, 1), 5: (3,)}


def test_no_heads_are_chosen_by_none() -> None:
    assert parse_heads(" none ").resolve((4, 4)) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "heads: the text is empty; write layer:head such as 46:*; 44:3, or none"),
        ("46", "heads: '46' in '46' has no colon; write layer:head, such as 46:* for a"),
        ("1:2; 3", "heads: '3' in '1:2; 3' has no colon"),
        (":3", "layers: the text is empty"),
        ("3:", "heads: the text is empty"),
        (";", "heads: '' in ';' has no colon"),
        ("1:2;;3:0", "heads: '' in '1:2;;3:0' has no colon"),
        ("1:x", "heads: cannot read 'x' in 'x'"),
    ],
)
def test_a_malformed_head_list_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_heads(text)
    assert str(error.value).startswith(message)


def test_a_head_that_does_not_exist_is_named_with_its_layer() -> None:
    where = parse_where("1", "3")
    with pytest.raises(ValueError) as error:
        where.resolve((4, 2))
    assert str(error.value) == (
        "heads: '3' names head 3, but layer 1 has heads 0 to 1 (or -2 to -1, counted from the end)"
    )


COUNT = 12
singles = st.integers(-COUNT, COUNT - 1)
ranges = st.tuples(singles, singles).filter(lambda r: r[0] % COUNT <= r[1] % COUNT)
Part = tuple[bool, int, int]
parts = st.lists(
    st.tuples(st.booleans(), singles.map(lambda i: (i, i)) | ranges).map(lambda p: (p[0], *p[1])),
    min_size=1,
    max_size=5,
)


def written(part: Part) -> str:
    excluded, first, last = part
    return "!" * excluded + (str(first) if first == last else f"{first}-{last}")


@given(parts)
def test_a_text_means_what_set_algebra_says(found: list[Part]) -> None:
    expected: set[int] = set(range(COUNT)) if found[0][0] else set()
    for excluded, first, last in found:
        span = set(range(first % COUNT, last % COUNT + 1))
        expected = expected - span if excluded else expected | span
    text = ",".join(map(written, found))
    assert parse_selection(text, "layers").resolve(COUNT) == tuple(sorted(expected))


@given(st.text(alphabet="0123456789-!,*almidnoe ;:x", max_size=12))
def test_any_text_is_read_or_refused_with_words(text: str) -> None:
    try:
        chosen = parse_selection(text, "layers").resolve(COUNT)
    except ValueError as error:
        assert str(error).startswith("layers: ")
    else:
        assert list(chosen) == sorted(set(chosen) & set(range(COUNT)))


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ({}, "none"),
        ({46: range(24), 47: range(24), 44: (3,)}, "44:3; 46-47:*"),
        ({0: (1,), 2: (0, 3)}, "0:1; 2:0,3"),
        ({n: range(24) for n in range(48)}, "all:*"),
        ({n: (0,) for n in range(48)}, "all:0"),
        ({1: range(23), 5: ()}, "1:!23"),
        ({n: (2, 3, 4, 7) for n in (0, 4, 5, 6)}, "0,4-6:2-4,7"),
    ],
)
def test_heads_are_written_short(chosen: dict[int, tuple[int, ...]], text: str) -> None:
    assert write_heads(chosen, (24,) * 48) == text


counts = st.lists(st.integers(1, 6), min_size=1, max_size=7)
choices = counts.flatmap(
    lambda heads: st.tuples(
        st.just(tuple(heads)), st.tuples(*(st.sets(st.integers(0, n - 1)) for n in heads))
    )
)


@given(choices)
def test_what_is_written_reads_as_the_same_heads(
    case: tuple[tuple[int, ...], tuple[set[int], ...]],
) -> None:
    heads, sets = case
    chosen = {layer: tuple(sorted(found)) for layer, found in enumerate(sets) if found}
    assert parse_heads(write_heads(chosen, heads)).resolve(heads) == chosen
