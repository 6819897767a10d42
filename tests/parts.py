"""Parts of dense maps, query by query: the keys of its own frame, and those at its own place."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from vdit_attention.vdit_core.attention import PARTS
from vdit_attention.vdit_core.grid import TokenGrid


def true_parts(maps: Tensor, grid: TokenGrid) -> dict[str, Tensor]:
    """The fields PARTS of maps [B, H, L, L], each [B, H] float64, by the tokens' coordinates."""
    found: dict[str, list[list[Tensor]]] = {name: [] for name in PARTS}
    where = torch.cartesian_prod(*map(torch.arange, (grid.frames, grid.rows, grid.cols)))
    where = where.view(-1, 3).tolist()
    for row in maps:
        for name in PARTS:
            found[name].append([])
        for head in row:
            kept: dict[str, list[float]] = {name: [] for name in PARTS}
            for n, (frame, *place) in enumerate(where):
                weights = head[grid.prefix + n]
                mine = {
                    "spatial": [i for i, at in enumerate(where) if at[0] == frame],
                    "temporal": [i for i, at in enumerate(where) if at[1:] == place],
                }
                for part, keys in mine.items():
                    chosen = weights[[grid.prefix + i for i in keys]]
                    mass = float(chosen.sum())
                    kept[f"{part}_mass"].append(mass)
                    if mass > 0:
                        p = chosen[chosen > 0] / mass
                        kept[f"{part}_entropy"].append(float(-(p * p.log()).sum()))
            for name in PARTS:
                values = kept[name]
                mean = sum(values) / len(values) if values else math.nan
                found[name][-1].append(torch.tensor(mean, dtype=torch.float64))
    return {name: torch.stack([torch.stack(row) for row in rows]) for name, rows in found.items()}
