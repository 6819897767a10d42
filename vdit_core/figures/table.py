"""Numbers as a table: aligned for reading, as CSV for spreadsheets and papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

Cell = float | int | str | None


@dataclass(frozen=True)
class Table:
    """columns: their names. rows: as many cells each; None is a number that is not known."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __add__(self, below: Table) -> Table:
        """This table and, below it, another of the same columns."""
        if [*self.columns] != [*below.columns]:
            raise ValueError(f"table: {[*below.columns]} does not continue {[*self.columns]}")
        return Table(self.columns, [*self.rows, *below.rows])

    def text(self) -> str:
        """Four digits, columns aligned: words to the left, numbers to the right."""
        cells = [list(self.columns), *([_short(cell) for cell in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        words = [any(isinstance(row[n], str) for row in self.rows) for n in range(len(widths))]
        lines = (
            "  ".join(
                cell.ljust(width) if word else cell.rjust(width)
                for cell, width, word in zip(line, widths, words, strict=True)
            ).rstrip()
            for line in cells
        )
        return "\n".join(lines)

    def csv(self) -> str:
        """Every digit, a line for the names of the columns, then one for each row."""
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return written.getvalue()


def _short(cell: Cell) -> str:
    if cell is None:
        return "–"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
