"""A sweep: the edits of one program again and again, each time in other layers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch

from .plan import UNTOUCHED
from .program import Edit, Program, chosen_heads
from .selection import Selection, parse_selection
from .sites import Call, Layout

ONE, ALL_BUT_ONE = OPERATIONS = ("one layer at a time", "all but one")
BASELINE = "none"  # label of the entry without the edits
_LABEL = re.compile(r"(?:all but )?layer (\d+)")


@dataclass(frozen=True)
class Entry:
    """One sampling of a sweep: what it is called, and what the model does in it."""

    label: str
    program: Program


def sweep(
    program: Program, layers: Selection, operation: str, baseline: bool, layout: Layout
) -> list[Entry]:
    """The program once for each of the layers, its edits held to it (or kept out of it).

    Captures stay as they are. baseline: first of all without any edit. Raises ValueError for a
    sweep that would show nothing.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"operation: got {operation!r}, allowed are {', '.join(OPERATIONS)}")
    chosen = layers.resolve(layout.layers)
    if not chosen:
        raise ValueError(f"layers: {layers.text!r} names no layer, so there is nothing to sweep")
    _check_edits(program, chosen, layout)
    only, name = ("{}", "layer {}") if operation == ONE else ("!{}", "all but layer {}")
    entries = [Entry(name.format(n), _held(program, only.format(n))) for n in chosen]
    return [*([Entry(BASELINE, _held(program, "none"))] if baseline else []), *entries]


def layer_of(label: str) -> int | None:
    """The layer that a label of a sweep names; None for the baseline. Raises ValueError else."""
    if label.strip() == BASELINE:
        return None
    if match := _LABEL.fullmatch(label.strip()):
        return int(match.group(1))
    raise ValueError(
        f"labels: {label!r} names no layer; connect the labels of VDiT Layer Sweep, or write "
        f"“layer 3”, “all but layer 3” or “{BASELINE}”"
    )


def acting_layers(edit: Edit, layout: Layout) -> set[int]:
    """The layers in which an edit changes something: not those to which a schedule gives 0."""
    layers: set[int] = set()
    if edit.neutral:
        return layers
    for site, heads in chosen_heads(edit.where, layout).items():
        pair = Call(site, 0, 0, 1.0, ("cond", "cond"), (0, 1))
        chosen = torch.zeros(2, site.heads, dtype=torch.bool)
        chosen[:, list(heads)] = True
        if not edit.change.apply(UNTOUCHED, pair, chosen).idle:
            layers.add(site.layer)
    return layers


def _check_edits(program: Program, chosen: tuple[int, ...], layout: Layout) -> None:
    edits = [spec for spec in program if isinstance(spec, Edit)]
    if not edits:
        raise ValueError(
            "model: it has no edit to sweep; put the node that changes attention before this one, "
            "such as VDiT Perturb Attention or VDiT Sparsity, with its layers set to all"
        )
    acting = set[int]().union(*(acting_layers(edit, layout) for edit in edits))
    if idle := [n for n in chosen if n not in acting]:
        where = ", ".join(map(str, sorted(acting))) or "no layer"
        names = ", ".join(dict.fromkeys(edit.asker.name for edit in edits))
        raise ValueError(
            f"layers: {names} changes nothing in {'layer' if len(idle) == 1 else 'layers'} "
            f"{', '.join(map(str, idle))}, only in {where}; set its layers to all, check its "
            "numbers and its schedule, or sweep other layers"
        )


def _held(program: Program, layers: str) -> Program:
    """The program with every edit held to these layers."""
    only = parse_selection(layers, "layers")
    return tuple(
        replace(spec, where=spec.where.within(only)) if isinstance(spec, Edit) else spec
        for spec in program
    )
