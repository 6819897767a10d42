"""Which maps of a record a figure shows: one panel for each chosen layer and head."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from ..record import Header, Measurement, RecordData
from ..selection import Selection, parse_selection
from ..sites import BRANCHES, Excerpt


@dataclass(frozen=True)
class Panel:
    """One map. weights: [m, m] mean weight × keys. other: [m] weight on tokens that are not video.

    entropy: of a row, in nats. share: of the largest possible entropy, log(keys). heads: averaged.
    """

    layer: int
    head: str
    heads: int
    weights: Tensor
    other: Tensor
    entropy: float
    share: float


@dataclass(frozen=True)
class Moment:
    """When and for whom the maps of one figure were measured. item: which video of how many.

    header: as it holds for these maps. prompt: which of how many of the branch.
    """

    header: Header
    step: int
    sigma: float
    branch: str
    item: int
    videos: int
    prompt: int = 0
    prompts: int = 1
    excerpt: Excerpt | None = None


@dataclass(frozen=True)
class Chosen:
    """What of a record a view shows. layers, head, step, branch: as in attention_map."""

    layers: Selection
    head: str
    step: Selection
    branch: str
    item: int = 0

    def calls(self, data: RecordData) -> tuple[Moment, list[Measurement]]:
        """What was measured of each layer; see choose_calls."""
        return choose_calls(data, self.layers, self.step, self.branch, self.item)


def choose_panels(
    data: RecordData, layers: Selection, head: str, step: Selection, branch: str, item: int
) -> tuple[Moment, list[list[Panel]]]:
    """The panels of each layer. Raises ValueError, saying what was captured, for a missing one."""
    moment, found = choose_calls(data, layers, step, branch, item)
    return moment, [_panels(data, m, head) for m in found]


def choose_calls(
    data: RecordData, layers: Selection, step: Selection, branch: str, item: int
) -> tuple[Moment, list[Measurement]]:
    """What was measured of each layer. Raises ValueError, saying what was captured instead."""
    if not data.measurements:
        raise ValueError("record: it holds no maps; choose layers and steps on VDiT Capture")
    at, whom = _step(data, step), _branch(data, branch)
    found = [
        data.find(layer=layer, step=at, branch=whom, item=item) for layer in _layers(data, layers)
    ]
    first, videos = found[0], len(captured_items(data))
    prompts = 1 + max(m.prompt for m in data.measurements if m.branch == whom)
    header, where = data.header_of(first), (first.prompt, prompts, first.excerpt)
    return Moment(header, at, first.sigma, whom, item, videos, *where), found


def captured_items(data: RecordData) -> list[int]:
    """Which videos of the batch a record holds, ascending."""
    return sorted({m.item for m in data.measurements})


def _step(data: RecordData, step: Selection) -> int:
    if step.text.strip() == "mid":
        middle = data.header.steps // 2
        return min((m.step for m in data.measurements), key=lambda s: (abs(s - middle), s))
    steps = step.resolve(data.header.steps, "this record's sampling")
    if len(steps) != 1:
        raise ValueError(
            f"step: {step.text!r} names {len(steps)} steps, but a picture shows one; write one "
            f"number, or mid for the captured step nearest to the middle; {_captured(data)}"
        )
    return steps[0]


def _branch(data: RecordData, branch: str) -> str:
    if branch not in BRANCHES:
        raise ValueError(f"branch: got {branch!r}, allowed are {', '.join(BRANCHES)}")
    captured = [m.branch for m in data.measurements]
    if branch == "both":
        return "cond" if "cond" in captured else captured[0]
    return branch


def _layers(data: RecordData, layers: Selection) -> list[int]:
    """The layers that were named; of those meant by `all` or by an exclusion, the captured ones."""
    named = layers.resolve(data.header.layers, "this record's model")
    captured = {m.layer for m in data.measurements}
    chosen = [n for n in named if n in captured] if _open_ended(layers) else list(named)
    if not chosen:
        raise ValueError(f"layer: {layers.text!r} leaves no layer to show; {_captured(data)}")
    return chosen


def _panels(data: RecordData, m: Measurement, head: str) -> list[Panel]:
    return [_panel(data, m, name, at) for name, at in choose_heads(data, m, head)]


def choose_heads(data: RecordData, m: Measurement, head: str) -> list[tuple[str, list[int]]]:
    """The name of each panel of a layer, and which places of the measures' first axis it means."""
    if head.strip() == "mean":
        return [("mean", list(range(len(m.heads))))]
    heads = parse_selection(head, "heads")
    named = heads.resolve(data.header.heads, "this record's model")
    chosen = [h for h in named if h in m.heads or not _open_ended(heads)]
    missing = [h for h in chosen if h not in m.heads]
    if missing or not chosen:
        raise ValueError(
            f"head: {head!r} asks for {_list(missing) or 'no head'} of layer {m.layer}, but there "
            f"heads {_list(m.heads)} were captured; choose from these, write mean, or widen the "
            "choice on VDiT Capture and sample again"
        )
    return [(str(h), [m.heads.index(h)]) for h in chosen]


def _panel(data: RecordData, m: Measurement, head: str, at: list[int]) -> Panel:
    """The mean of the heads whose places on the measures' first axis are `at`."""
    keys = len(data.header_of(m).grid)
    weights = m.measures.pooled_map[at].mean(0) * keys
    other, entropy = m.measures.other_mass[at].mean(0), float(m.measures.entropy[at].mean())
    share = entropy / math.log(keys) if keys > 1 else 0.0
    return Panel(m.layer, head, len(at), weights, other, entropy, share)


def _open_ended(selection: Selection) -> bool:
    """Whether it says `all`, or all but some, and so names nothing in particular."""
    return any(excluded or first is None for excluded, first, _ in selection.parts)


def _captured(data: RecordData) -> str:
    layers, steps = (m.layer for m in data.measurements), (m.step for m in data.measurements)
    return f"captured were layers {_list(layers)}, steps {_list(steps)}"


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, dict.fromkeys(values)))
