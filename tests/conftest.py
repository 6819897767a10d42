"""Settings of all tests: ComfyUI computes on the CPU, and torch leaves no core oversubscribed."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

import pytest

if not all(importlib.util.find_spec(name) for name in ("vdit_attention", "comfy", "torch")):
    pytest.exit("run the tests with: python3 dev.py test [pytest arguments]", returncode=1)

import torch
from vdit_attention.tests.table import Table

TRITON = importlib.util.find_spec("triton") is not None
if TRITON and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when kernels are defined, and ComfyUI defines some
collect_ignore = [] if TRITON else ["core/test_triton.py", "gpu/test_triton_on_cuda.py"]


def pytest_report_header() -> str:
    how = "on the GPU" if torch.cuda.is_available() else "in its interpreter"
    return f"tests of triton: {how if TRITON else 'left out: triton is not installed'}"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Table())


def choose_cpu() -> None:
    """Tell ComfyUI to use the CPU; it reads its command line when comfy is first imported."""
    arguments, sys.argv = sys.argv, ["pytest", "--cpu"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        importlib.import_module("comfy.cli_args")
    finally:
        sys.argv = arguments


choose_cpu()
torch.set_num_threads(min(torch.get_num_threads(), os.cpu_count() or 1))
