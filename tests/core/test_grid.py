"""Tokens in space and time, on grids of distinct primes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vdit_attention.vdit_core.grid import TokenGrid

sizes = st.sampled_from([1, 2, 3, 5, 7, 11])
grids = st.builds(TokenGrid, sizes, sizes, sizes, st.integers(0, 4), st.integers(0, 3))


def test_tokens_run_along_columns_then_rows_then_frames() -> None:
    grid = TokenGrid(frames=3, rows=5, cols=7, prefix=2, suffix=4)
    places = [(f, r, c) for f in range(3) for r in range(5) for c in range(7)]
    frame, row, col = grid.unravel(torch.arange(2, 107))
    assert list(zip(frame.tolist(), row.tolist(), col.tolist(), strict=True)) == places
    assert grid.video == slice(2, 107)
    assert len(grid) == 2 + 105 + 4


@given(grids)
def test_ravel_undoes_unravel(grid: TokenGrid) -> None:
    tokens = torch.arange(len(grid))[grid.video]
    assert len(tokens) == grid.video_tokens
    assert torch.equal(grid.ravel(*grid.unravel(tokens)), tokens)


@given(grids, st.integers(1, 40))
def test_bins_are_runs_of_tokens_and_at_most_as_many_as_asked(grid: TokenGrid, size: int) -> None:
    bins = grid.bins(size)
    steps = bins.diff()
    assert bins.shape == (grid.video_tokens,)
    assert int(bins[0]) == 0
    assert bool(((steps == 0) | (steps == 1)).all())
    assert int(bins[-1]) < max(size, 1)


@given(grids, st.integers(1, 40))
def test_no_bin_straddles_two_frames_unless_it_holds_them_whole(grid: TokenGrid, size: int) -> None:
    bins, frame = grid.bins(size), torch.arange(grid.video_tokens) // (grid.rows * grid.cols)
    if grid.frames <= size:
        for number in bins.unique():
            assert len(frame[bins == number].unique()) == 1
    else:
        for number in frame.unique():
            assert len(bins[frame == number].unique()) == 1


@given(grids, st.integers(1, 40))
def test_bins_of_one_frame_are_of_near_equal_length(grid: TokenGrid, size: int) -> None:
    if grid.frames <= size:
        counts = torch.bincount(grid.bins(size))
        assert int(counts.max() - counts.min()) <= 1


@pytest.mark.parametrize(("size", "expected"), [(105, 105), (200, 105), (10, 9), (3, 3), (2, 2)])
def test_how_many_bins_a_grid_of_3_5_7_has(size: int, expected: int) -> None:
    assert int(TokenGrid(3, 5, 7).bins(size).max()) + 1 == expected
