"""Launch the Triton kernels: one function for each, from tensors to tensors."""

# A kernel's launcher has no types, and triton is not there on every platform.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

from ..grid import TokenGrid
from .triton_heads import FoldedHeads, Rows
from .triton_kernels import (
    DIGITS,
    INTERPRETED,
    below_kernel,
    columns_kernel,
    digits_kernel,
    kept_kernel,
    places_kernel,
    rows_kernel,
)

DOTS = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
SMALLEST = 16  # rows and columns of a matrix product


@dataclass(frozen=True)
class _Tiling:
    """Queries and keys of a tile, and how many warps and stages of loads work on it."""

    queries: int
    keys: int
    warps: int
    stages: int


# The first whose tiles fit the memory that the warps of a block share: 227 KB on an H100, 99 KB on
# most GPUs for games. Exact float32 products run outside the tensor cores, from registers.
HALF = _Tiling(128, 64, 8, 3), _Tiling(64, 64, 4, 2), _Tiling(64, 32, 4, 1)
FULL = _Tiling(32, 32, 8, 1), _Tiling(32, 16, 4, 1)
INTERPRETER = _Tiling(64, 64, 1, 1)
SHARED_BYTES = 48 * 2**10  # what every GPU has


def read_rows(
    heads: FoldedHeads, v: Tensor | None = None, *, entropy: bool = False, exact: bool = False
) -> Rows:
    """What is known of each query; M V if v [B, H, Lk, Dv] is given.

    exact: multiply v by weights of twice the precision of v, which is what attention uses.
    """
    top, total = heads.new(heads.queries), heads.new(heads.queries)
    entropies = heads.new(heads.queries) if entropy else None
    allowed = torch.full_like(top, heads.keys, dtype=torch.int32)
    out = None if v is None else heads.new(heads.queries, v.shape[-1])
    _launch(
        rows_kernel,
        heads,
        *_values(heads, v),
        *(top, total, top if entropies is None else entropies),
        *(allowed, top if out is None else out),
        VALUES=out is not None,
        TWICE=exact and heads.q.dtype != torch.float32,
        ENTROPY=entropy,
        BDV=_width(1 if v is None else v.shape[-1]),
    )
    return Rows(top, total.where(allowed > 0, 1), allowed, entropies, out)


def read_columns(
    heads: FoldedHeads, rows: Rows, bounds: Tensor, tau: float | None
) -> tuple[Tensor, Tensor]:
    """Column sums of runs of queries [n, S, Lk], and how often a key gets tau or more [n, Lk].

    bounds: [S + 1] int32, where each run begins and the last one ends.
    """
    segments = len(bounds) - 1
    sums, heavy = heads.new(segments, heads.keys), heads.new(heads.keys, dtype=torch.int32)
    grid = _blocks(heads.keys, _tiling(heads).keys), segments, len(heads)
    given = rows.top, rows.total, bounds.to(heads.q.device), tau or 0.0
    _launch(columns_kernel, heads, *given, sums, heavy, segments, HEAVY=tau is not None, grid=grid)
    return sums, heavy


def read_places(heads: FoldedHeads, rows: Rows, grid: TokenGrid) -> Tensor:
    """Mass of video queries on video keys by place in the picture, [n, R·C, R·C]."""
    places, tiling = grid.rows * grid.cols, _tiling(heads)
    sums = heads.new(places, places)
    blocks = _blocks(places, tiling.queries), _blocks(places, tiling.keys), len(heads)
    where = grid.prefix, grid.frames, places
    _launch(places_kernel, heads, rows.top, rows.total, sums, *where, grid=blocks)
    return sums


def count_below(heads: FoldedHeads, rows: Rows, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Allowed keys whose log weight is below each level, and their share of the row's mass.

    levels: broadcasts to [n, Lq, number]. Both answers [n, Lq, number], int32 and float64.
    """
    number = levels.shape[-1]
    levels = levels.contiguous().expand(len(heads), heads.queries, number)
    counts = heads.new(heads.queries, number, dtype=torch.int32)
    masses = heads.new(heads.queries, number, dtype=torch.float64)
    given = rows.top, rows.log_total, levels, levels.stride(0), levels.stride(1)
    width = _power(number)
    _launch(below_kernel, heads, *given, counts, masses, number, WIDTH=width)
    return counts, masses / rows.total.double()[..., None]


def count_digits(heads: FoldedHeads, rows: Rows, prefix: Tensor, shift: int) -> Tensor:
    """How often each digit follows the prefix [n] int64 among the log weights, [n, DIGITS]."""
    counts = heads.new(DIGITS, dtype=torch.int64)
    _launch(digits_kernel, heads, rows.top, rows.log_total, prefix, counts, shift, DIGITS=DIGITS)
    return counts


def read_kept(
    heads: FoldedHeads, rows: Rows, v: Tensor, levels: Tensor, renormalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """M V [n, Lq, Dv] without log weights below levels [n], the share left, and the keys kept."""
    out, left = heads.new(heads.queries, v.shape[-1]), heads.new(heads.queries)
    kept = torch.zeros_like(rows.allowed)
    _launch(
        kept_kernel,
        heads,
        *_values(heads, v),
        *(rows.top, rows.total, rows.log_total, levels, out, left, kept),
        RENORMALIZE=renormalize,
        BDV=_width(v.shape[-1]),
    )
    return out, left / rows.total, kept


def _launch(
    kernel: object,
    heads: FoldedHeads,
    *arguments: object,
    grid: tuple[int, ...] | None = None,
    **constants: object,
) -> None:
    """Start a kernel; left out, the grid is a program for each block of queries of each head."""
    q, k, tiling = heads.q, heads.k, _tiling(heads)
    mask, kind, blocked = _mask(heads)
    strides = *q.stride(), *k.stride(), *((0, 0, 0, 0) if kind == 0 else mask.stride())
    with torch.cuda.device_of(q):
        # Pyright does not know that a kernel is indexed by its grid.
        kernel[grid or (_blocks(heads.queries, tiling.queries), len(heads))](  # pyright: ignore
            *(q, k, mask, heads.rows, heads.heads, heads.factor, blocked, *strides),
            *arguments,
            *(heads.queries, heads.keys, q.shape[-1]),
            MASK=kind,
            # The interpreter, which is numpy, has no bfloat16; products are exact in float32.
            DOT=tl.float32 if INTERPRETED else DOTS[q.dtype],
            BM=tiling.queries,
            BN=tiling.keys,
            BD=_width(q.shape[-1]),
            **constants,
            num_warps=tiling.warps,
            num_stages=tiling.stages,
        )


def _mask(heads: FoldedHeads) -> tuple[Tensor, int, float]:
    """The mask or what stands in for it, its kind, and the value up to which it forbids a key."""
    mask = heads.mask
    if mask is None:
        return heads.q, 0, 0.0
    if mask.dtype == torch.uint8:
        return mask, 1, 0.0
    lowest = max(torch.finfo(mask.dtype).min, torch.finfo(torch.float32).min)
    return mask, 2, lowest / 2


def _values(heads: FoldedHeads, v: Tensor | None) -> tuple[object, ...]:
    """v or what stands in for it, where its rows lie, its strides and width."""
    if v is None:
        return heads.q, heads.value_rows, 0, 0, 0, 0, 0
    return v, heads.value_rows, *v.stride(), v.shape[-1]


def _tiling(heads: FoldedHeads) -> _Tiling:
    if INTERPRETED:
        return INTERPRETER
    device = torch.cuda.get_device_properties(heads.q.device)
    shared = getattr(device, "shared_memory_per_block_optin", SHARED_BYTES)
    choices = FULL if heads.q.dtype == torch.float32 else HALF
    fitting = (tiling for tiling in choices if _shared_bytes(tiling, heads) <= shared)
    return next(fitting, choices[-1])


def _shared_bytes(tiling: _Tiling, heads: FoldedHeads) -> int:
    """At most: the queries' tile, and for each stage one of keys, of values and of the mask."""
    row = _width(heads.q.shape[-1]) * heads.q.element_size()
    mask = 0 if heads.mask is None else heads.mask.element_size()
    stage = tiling.keys * (2 * row + mask * tiling.queries)
    return tiling.queries * row + tiling.stages * stage


def _width(wanted: int) -> int:
    return max(SMALLEST, _power(wanted))


def _power(number: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << (number - 1).bit_length()


def _blocks(number: int, each: int) -> int:
    return -(-number // each)
