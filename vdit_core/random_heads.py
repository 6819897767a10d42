"""As many other heads as some, drawn at random: what skipping sinks is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

OVER = ("each layer", "all layers")


def random_heads(
    given: Mapping[int, Sequence[int]], heads: Sequence[int], over: str, seed: int
) -> dict[int, tuple[int, ...]]:
    """Heads by layer, none of them given, as many as given: in each layer, or in all together.

    heads: number of heads of each layer. Raises ValueError where there are not as many others.
    """
    if over not in OVER:
        raise ValueError(f"over: got {over!r}, allowed are {', '.join(OVER)}")
    generator = torch.Generator().manual_seed(seed)
    others = [
        (layer, head)
        for layer, count in enumerate(heads)
        for head in range(count)
        if head not in given.get(layer, ())
    ]
    if over == "all layers":
        return _by_layer(_draw(others, sum(map(len, given.values())), "the model", generator))
    found: list[tuple[int, int]] = []
    for layer, chosen in sorted(given.items()):
        beside = [head for head in others if head[0] == layer]
        found += _draw(beside, len(chosen), f"layer {layer}", generator)
    return _by_layer(found)


def _draw(
    others: Sequence[tuple[int, int]], count: int, where: str, generator: torch.Generator
) -> list[tuple[int, int]]:
    if count > len(others):
        raise ValueError(
            f"heads: {count} of {where} are given, which leaves {len(others)} others, but {count} "
            "are to be drawn; choose over = all layers, or give fewer heads"
        )
    order = torch.randperm(len(others), generator=generator).tolist()
    return [others[n] for n in order[:count]]


def _by_layer(found: Sequence[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    layers = sorted({layer for layer, _ in found})
    return {n: tuple(sorted(head for layer, head in found if layer == n)) for n in layers}
