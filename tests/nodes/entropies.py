"""What tests of entropy share: rankings by dense float64 maps of calls seen from outside."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Call(Protocol):
    """One attention call as a spy saw it. q, k, v, out: [B, H, L, D]."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    sigma: float


def run(node: Any, **inputs: Any) -> Any:
    return node.PREPARE_CLASS_CLONE(None).execute(**inputs).result


def dense_map(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(Q Kᵀ / √D) in float64."""
    scores = q.double() @ k.double().mT / math.sqrt(q.shape[-1])
    return (scores if mask is None else scores + mask.double()).softmax(-1)


def shares(weights: Tensor, keys: int) -> Tensor:
    """Mean entropy of the rows of maps [..., Lq, Lk] over log(keys)."""
    return -(weights * weights.clamp(min=1e-300).log()).sum(-1).mean(-1) / math.log(keys)


def levels(calls: Sequence[Call]) -> list[float]:
    return sorted({call.sigma for call in calls}, reverse=True)


def heads_of(by_layer: dict[int, list[Tensor]]) -> dict[tuple[int, int], float]:
    """By layer and head, the mean over rows of entropies [H]."""
    means = {layer: torch.stack(found).mean(0) for layer, found in by_layer.items()}
    return {(n, head): float(x) for n, mean in means.items() for head, x in enumerate(mean)}


def highest(values: dict[Any, float], count: int) -> set[Any]:
    return set(sorted(values, key=lambda key: values[key])[len(values) - count :])


def lowest(values: dict[Any, float], count: int) -> set[Any]:
    return set(sorted(values, key=lambda key: values[key])[:count])


def layers_of(by_head: dict[tuple[int, int], float]) -> dict[int, float]:
    found: dict[int, list[float]] = defaultdict(list)
    for (layer, _), value in by_head.items():
        found[layer].append(value)
    return {layer: sum(values) / len(values) for layer, values in found.items()}
