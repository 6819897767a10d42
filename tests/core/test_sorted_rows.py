"""Counts and masses of sorted rows against plain sums over the entries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.measures.sorted_rows import RUN, SortedRows, sort_in_place

ROWS = 5
LENGTHS = [1, 2, RUN - 1, RUN, RUN + 1, 2 * RUN, 3 * RUN + 7, 509]


def rows_of(logs: Tensor, in_logs: bool, hidden: int) -> SortedRows:
    """logs: [t, n]; the first `hidden` of each row stand for keys the mask forbids."""
    logs[:, :hidden] = -1e30
    weights = logs.exp()
    total, allowed = weights.sum(-1), torch.full((len(logs),), logs.shape[1] - hidden)
    values, work = (logs, weights) if in_logs else (weights, logs)
    return SortedRows.sort(values.clone(), total.log(), allowed, work.clone(), in_logs)


@pytest.mark.parametrize("hidden", [0, 1])
@pytest.mark.parametrize("in_logs", [True, False])
@pytest.mark.parametrize("length", LENGTHS)
def test_counts_and_masses_below_are_those_of_the_entries(
    length: int, in_logs: bool, hidden: int
) -> None:
    logs = 2 * torch.randn(ROWS, length, generator=torch.Generator().manual_seed(length))
    rows = rows_of(logs, in_logs, min(hidden, length - 1))
    shares = logs.double().softmax(-1)
    at = torch.tensor([-torch.inf, -9.0, -6.0, -4.0, -3.0, -1.0, torch.inf])
    count, mass = rows.below(at)
    less = (shares[:, None] < at.double().exp()[:, None]) & (logs > -1e29)[:, None]
    assert torch.equal(count - rows.ignored[:, None], less.sum(-1))
    torch.testing.assert_close(mass, (shares[:, None] * less).sum(-1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("in_logs", [True, False])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_fewest_keys_are_found_by_taking_the_largest_first(
    length: int, in_logs: bool, share: float
) -> None:
    logs = 2 * torch.randn(ROWS, length, generator=torch.Generator().manual_seed(length))
    shares = logs.double().softmax(-1).numpy()
    held = np.cumsum(-np.sort(-shares, -1), -1)
    wanted = (held < share * (1 - 1e-9)).sum(-1) + 1
    found = rows_of(logs, in_logs, 0).keys_for(share) * length
    assert found.round().int().tolist() == wanted.tolist()


@pytest.mark.parametrize("in_logs", [True, False])
def test_entries_equal_to_the_weight_are_not_below_it(in_logs: bool) -> None:
    """Many ties, across several runs."""
    logs = torch.zeros(1, 100)
    logs[:, :30] = -1.0
    rows = rows_of(logs, in_logs, 0)
    tie = rows.between(torch.tensor([50]), torch.tensor([51]))
    count, mass = rows.below(tie)
    assert count.item() in (30, 100)  # with roundings all of a run of ties falls on one side
    wanted = {30: 30 * np.exp(-1.0) / (70 + 30 * np.exp(-1.0)), 100: 1.0}[int(count)]
    assert abs(float(mass) - wanted) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bits_of_what_is_not_negative_sort_like_the_numbers(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    values = torch.tensor([3.0, 0.0, tiny, tiny / 8, 1e30, 1.0, 0.5, torch.inf], dtype=dtype)
    wanted = values.sort().values
    sort_in_place(values, negative=False)
    assert torch.equal(values, wanted)
