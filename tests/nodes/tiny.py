"""Tiny real Wan models as our nodes give them, edited and watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.benchmarks.tiny_wan import (
    COLS,
    CONFIG,
    FRAMES,
    HEADS,
    LAYERS,
    ROWS,
    TEXT_WIDTH,
    TOKENS,
    WIDTH,
    Conditioning,
    empty_latent,
    prompt,
    sample,
    tiny_wan,
)
from vdit_attention.vdit_core.edits import Change
from vdit_attention.vdit_core.host.comfy import attach
from vdit_attention.vdit_core.program import Asker, Capture, Edit, Window
from vdit_attention.vdit_core.record import Record
from vdit_attention.vdit_core.selection import parse_selection, parse_where

__all__ = [
    "ALWAYS",
    "COLS",
    "CONFIG",
    "FRAMES",
    "HEADS",
    "LAYERS",
    "ROWS",
    "TEXT_WIDTH",
    "TOKENS",
    "WIDTH",
    "Conditioning",
    "Seen",
    "Spy",
    "edited",
    "empty_latent",
    "prompt",
    "sample",
    "tiny_wan",
    "watched",
]

ALWAYS = Window()


def edited(
    model: ModelPatcher,
    change: Change,
    layers: str = "all",
    heads: str = "all",
    window: Window = ALWAYS,
    branch: str = "both",
) -> ModelPatcher:
    """The model as an edit node gives it."""
    where = parse_where(layers, heads)
    return attach(model, Edit(Asker("Edit"), change, where, window, branch))


def watched(
    model: ModelPatcher,
    layers: str = "all",
    heads: str = "all",
    steps: str = "all",
    branch: str = "both",
    map_size: int = 64,
    earlier: Record | None = None,
) -> tuple[ModelPatcher, Record]:
    """The model as VDiT Capture gives it, and its record."""
    where = parse_where(layers, heads)
    record, at = Record(), parse_selection(steps, "steps")
    asked = Capture(Asker("Capture"), where, at, record, branch, map_size, earlier=earlier)
    return attach(model, asked), record


class Seen:
    """One attention call as it happened. q, k, v, out: [B, H, L, D]."""

    def __init__(self, args: tuple[Any, ...], options: dict[str, Any], heads: int, out: Tensor):
        def split(x: Tensor) -> Tensor:
            return x.detach().clone().unflatten(-1, (heads, -1)).transpose(1, 2)

        self.q, self.k, self.v = (split(x) for x in args[:3])
        self.out = split(out)
        self.layer: int = options["block_index"]
        self.chunks: list[int] = list(options["cond_or_uncond"])
        self.sigma = float(options["sigmas"][0])
        self.cross = self.q.shape[2] != self.k.shape[2]

    @property
    def items(self) -> int:
        """Videos in each chunk of the batch."""
        return self.q.shape[0] // len(self.chunks)

    def plain(self, function: Callable[..., Tensor]) -> Tensor:
        """What the function alone makes of the same inputs."""
        q, k, v = (x.transpose(1, 2).flatten(2) for x in (self.q, self.k, self.v))
        out = function(q, k, v, heads=self.q.shape[1])
        return out.unflatten(-1, (self.q.shape[1], -1)).transpose(1, 2)


class Spy:
    """In the place of core's `optimized_attention` inside Wan: calls it, and notes everything."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function, self.seen = function, list[Seen]()

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        out = self.function(*args, **kwargs)
        self.seen.append(Seen(args, kwargs["transformer_options"], kwargs["heads"], out))
        return out
