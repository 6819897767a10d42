"""Rows of a tile a few at a time: what one operation wrote is in the cache for the next."""

from __future__ import annotations

import torch
from torch import Tensor

BYTES = 2**19  # per thread: two tables of this size fit the second cache of a processor's core


def few_rows(table: Tensor) -> int:
    """How many rows of table [..., t, n] to take at a time; on a GPU all."""
    rows = table.shape[-2]
    if table.device.type != "cpu":
        return rows
    return max(1, min(rows, BYTES * torch.get_num_threads() * rows // max(1, table.nbytes)))
