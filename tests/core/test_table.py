"""Tables: what is read and what a spreadsheet gets."""

from __future__ import annotations

import csv
import io

import pytest
from vdit_attention.vdit_core.figures.table import Table

TABLE = Table(["layer", "word", "share (%)"], [[3, "a, b", 1 / 3], [12, 'say "x"', None]])


def test_text_is_aligned_and_short() -> None:
    assert TABLE.text().splitlines() == [
        "layer  word     share (%)",
        "    3  a, b        0.3333",
        '   12  say "x"          –',
    ]


def test_csv_keeps_every_digit_and_awkward_words() -> None:
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows[0] == ["layer", "word", "share (%)"]
    assert rows[1][1] == "a, b" and float(rows[1][2]) == 1 / 3
    assert rows[2] == ["12", 'say "x"', ""]


def test_tables_of_the_same_columns_join_and_others_do_not() -> None:
    assert len((TABLE + TABLE).rows) == 4
    with pytest.raises(ValueError, match="does not continue"):
        _ = TABLE + Table(["layer"], [])
