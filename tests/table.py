"""The table of model families: which was shown to do what, printed at the end of a test run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator
from typing import Any

import pytest


class Table:
    """A pytest plugin. Tests marked `column(name)` fill its cells, by their family or case."""

    def __init__(self) -> None:
        self.outcomes: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Function
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        mark = item.get_closest_marker("column")
        ran = (report.when == "call" or report.failed) and not report.skipped
        if mark is not None and ran:
            family = _family(item)
            if family is not None:
                self.outcomes[family, mark.args[0]].append(report.passed)
        return report

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.outcomes:
            terminalreporter.section("model families: tests passed of tests run")
            for line in self.lines():
                terminalreporter.write_line(line)

    def lines(self) -> list[str]:
        """A Markdown table, families down and columns across."""
        families = list(dict.fromkeys(family for family, _ in self.outcomes))
        columns = list(dict.fromkeys(column for _, column in self.outcomes))
        rows = [["family", *columns], ["---"] * (1 + len(columns))]
        rows += [[name, *(self._cell(name, column) for column in columns)] for name in families]
        return [f"| {' | '.join(row)} |" for row in rows]

    def _cell(self, family: str, column: str) -> str:
        outcomes = self.outcomes.get((family, column))
        return f"{sum(outcomes)} of {len(outcomes)}" if outcomes else "–"


def _family(item: pytest.Function) -> str | None:
    family = item.funcargs.get("family") or getattr(item.funcargs.get("case"), "family", None)
    return getattr(family, "name", None)
