"""The whole repository passes ruff, ruff format and pyright, as pyproject.toml sets them up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
CHECKS = {
    "ruff check": ["ruff", "check", "--output-format=concise", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "pyright": ["pyright", "--project", ".", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize("name", CHECKS)
def test_passes(name: str) -> None:
    command = [sys.executable, "-m", *CHECKS[name]]
    quiet = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # else it asks for newer versions
    answer = subprocess.run(command, cwd=REPO, env=quiet, capture_output=True, text=True)
    if answer.returncode:
        pytest.fail(f"{name}:\n{answer.stdout}{answer.stderr}", pytrace=False)
