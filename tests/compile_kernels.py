"""Run as a module: compile every Triton kernel for an H100, without having one.

The engine is run on CPU tensors with a driver that only says which GPU to compile for; nothing is
launched, so its answers mean nothing. Prints a line for each kernel compiled.
"""

# What is replaced here belongs to triton, which has no types and is not on every platform.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from vdit_attention.vdit_core.attention import attend, measure, triton_heads
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import AttentionPlan, Threshold

H100: Any = SimpleNamespace(
    get_current_device=lambda: 0,
    get_current_stream=lambda device: 0,
    get_current_target=lambda: GPUTarget("cuda", 90, 32),
)


def compile_only() -> None:
    """Let a launch compile and no more."""
    triton.runtime.driver.set_active(H100)
    run: Any = triton.JITFunction.run

    def compiled(kernel: triton.JITFunction, *arguments: object, **options: object) -> None:
        made = run(kernel, *arguments, **{**options, "warmup": True})
        shared, size = made.metadata.shared, len(made.asm["cubin"])
        sys.stdout.write(f"{made.metadata.name}: {shared} bytes shared, {size} in all\n")

    triton.JITFunction.run = compiled
    triton_heads.INTERPRETED = True  # CPU tensors will do
    properties = SimpleNamespace(shared_memory_per_block_optin=227 * 2**10)
    torch.cuda.get_device_properties = lambda device: properties


def main() -> None:
    compile_only()
    grid = TokenGrid(4, 4, 16, prefix=3)
    q, k, v = (torch.zeros(1, 2, len(grid), 128, dtype=torch.bfloat16) for _ in range(3))
    mask = torch.zeros(1, 1, 1, len(grid), dtype=torch.bfloat16)
    measure(q, k, v, grid=grid, mask=mask, implementation="triton")
    plan = AttentionPlan(threshold=Threshold(torch.tensor([[0.0, 0.5]])))
    attend(q, k, v, plan, mask=mask, implementation="triton")


if __name__ == "__main__":
    main()
