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
