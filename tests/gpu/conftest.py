"""The GPU tests run where torch sees a GPU; elsewhere they are left out, and the header says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_report_header() -> str:
    state = "run" if torch.cuda.is_available() else "left out: torch sees no CUDA GPU"
    return f"tests/gpu: {state}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    left_out = [item for item in items if HERE in item.path.parents]
    items[:] = [item for item in items if HERE not in item.path.parents]
    config.hook.pytest_deselected(items=left_out)
