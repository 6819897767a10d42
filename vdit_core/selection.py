"""The layer grammar: how people write down layers, heads and steps.

    all            every index              none     no index at all
    0,3,19-21      numbers and ranges       mid      the middle one
    -1  -4--1      counted from the end     !44      all of the others (or taken out of the list)

Heads of several layers: `46:*; 44:3` is every head of layer 46 and head 3 of layer 44.
A value per layer: `all=0.7; 44,45=0`, where later entries win.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from .sites import in_runs

_RANGE = re.compile(r"(-?\d+)(?:-(-?\d+))?")
_HELP = "write all, none, mid, or numbers and ranges such as 0,3,19-21 or -4--1, with ! to exclude"


@dataclass(frozen=True)
class Selection:
    """A parsed list of indices whose length is not known yet.

    what: the input it was typed into, for messages ("layers", "heads", "steps").
    parts: (excluded, first, last) with `None` for all and "mid" for the middle.
    """

    text: str
    what: str
    parts: tuple[tuple[bool, int | str | None, int | None], ...]

    def resolve(self, count: int, owner: str = "this model") -> tuple[int, ...]:
        """The chosen indices of `count`, ascending. Raises ValueError for one out of range."""
        first_excludes = bool(self.parts) and self.parts[0][0]
        chosen: set[int] = set(range(count)) if first_excludes else set()
        for excluded, first, last in self.parts:
            indices = self._indices(first, last, count, owner)
            chosen = chosen - indices if excluded else chosen | indices
        return tuple(sorted(chosen))

    def _indices(
        self, first: int | str | None, last: int | None, count: int, owner: str
    ) -> set[int]:
        if first is None:
            return set(range(count))
        if isinstance(first, str):
            return {count // 2} if count else set()
        start = self._index(first, count, owner)
        stop = start if last is None else self._index(last, count, owner)
        if start > stop:
            raise ValueError(
                f"{self.what}: {self.text!r} has a range that runs backwards ({start} to {stop} "
                f"of {count}); write the smaller index first"
            )
        return set(range(start, stop + 1))

    def _index(self, index: int, count: int, owner: str) -> int:
        if not -count <= index < count:
            name = self.what.removesuffix("s")
            raise ValueError(
                f"{self.what}: {self.text!r} names {name} {index}, but {owner} has {self.what} "
                f"0 to {count - 1} (or -{count} to -1, counted from the end)"
            )
        return index % count


def parse_selection(text: str, what: str) -> Selection:
    """Parse user text in the layer grammar. Raises ValueError saying what is wrong with it."""
    items = [item.strip() for item in text.split(",")]
    if not text.strip():
        raise ValueError(f"{what}: the text is empty; {_HELP}")
    if items == ["none"]:
        return Selection(text, what, ())
    return Selection(text, what, tuple(_parse_part(item, text, what) for item in items))


def _parse_part(item: str, text: str, what: str) -> tuple[bool, int | str | None, int | None]:
    excluded, body = item.startswith("!"), item.removeprefix("!").strip()
    if body in ("all", "*"):
        return excluded, None, None
    if body == "mid":
        return excluded, "mid", None
    if match := _RANGE.fullmatch(body):
        last = match.group(2)
        return excluded, int(match.group(1)), None if last is None else int(last)
    raise ValueError(f"{what}: cannot read {item!r} in {text!r}; {_HELP}")


@dataclass(frozen=True)
class HeadList:
    """Chosen heads, layer by layer: pairs of layer selection and head selection.

    only: of these, the heads in layers that each of these selections names.
    """

    text: str
    entries: tuple[tuple[Selection, Selection], ...]
    only: tuple[Selection, ...] = ()

    def within(self, layers: Selection) -> HeadList:
        """The same heads, but none outside these layers."""
        return replace(self, only=(*self.only, layers))

    def resolve(self, heads: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
        """Chosen heads by layer. heads: number of heads of each layer of the model."""
        chosen: dict[int, set[int]] = {}
        for layers, inner in self.entries:
            for layer in layers.resolve(len(heads)):
                found = inner.resolve(heads[layer], f"layer {layer}")
                chosen.setdefault(layer, set()).update(found)
        for layers in self.only:
            kept = layers.resolve(len(heads))
            chosen = {layer: found for layer, found in chosen.items() if layer in kept}
        return {layer: tuple(sorted(found)) for layer, found in sorted(chosen.items())}


def parse_where(layers: str, heads: str) -> HeadList:
    """Parse layers and heads that were written apart: these heads in each of these layers."""
    chosen = parse_selection(layers, "layers"), parse_selection(heads, "heads")
    return HeadList(f"{layers}:{heads}", (chosen,))


def parse_heads(text: str) -> HeadList:
    """Parse `layers:heads; layers:heads`, such as `46:*; 44:3`, or `none`."""
    if text.strip() == "none":
        return HeadList(text, ())
    if not text.strip():
        raise ValueError("heads: the text is empty; write layer:head such as 46:*; 44:3, or none")
    entries: list[tuple[Selection, Selection]] = []
    for entry in (part.strip() for part in text.strip().removesuffix(";").split(";")):
        layers, colon, heads = entry.partition(":")
        if not colon:
            raise ValueError(
                f"heads: {entry!r} in {text!r} has no colon; write layer:head, such as 46:* for a "
                "whole layer or 44:3,5 for two heads, and separate layers with semicolons"
            )
        entries.append((parse_selection(layers, "layers"), parse_selection(heads, "heads")))
    return HeadList(text, tuple(entries))


def write_heads(chosen: Mapping[int, Collection[int]], heads: Sequence[int]) -> str:
    """The text that `parse_heads` reads as these heads; layers with the same heads share an entry.

    chosen: heads by layer. heads: number of heads of each layer of the model.
    """
    layers: dict[str, list[int]] = {}
    for layer in sorted(layer for layer, found in chosen.items() if found):
        layers.setdefault(_written(chosen[layer], heads[layer], "*"), []).append(layer)
    entries = [f"{_written(found, len(heads), 'all')}:{text}" for text, found in layers.items()]
    return "; ".join(entries) or "none"


def write_layers(chosen: Collection[int], count: int) -> str:
    """The text that `parse_selection` reads as these layers of a model of `count`."""
    return _written(chosen, count, "all") if chosen else "none"


def _written(chosen: Collection[int], count: int, everything: str) -> str:
    """Indices as ranges, or those left out where that is shorter."""
    left_out = sorted(set(range(count)) - set(chosen))
    if not left_out:
        return everything
    named, others = (in_runs(sorted(each)).split(", ") for each in (chosen, left_out))
    return min(",".join(named), ",".join(f"!{run}" for run in others), key=len)


@dataclass(frozen=True)
class ValueList:
    """A value for each of some layers: pairs of layer selection and value, later ones win."""

    text: str
    entries: tuple[tuple[Selection, float], ...]

    def resolve(self, count: int, default: float) -> tuple[float, ...]:
        """The value of each of `count` layers; `default` where none is named."""
        values = [default] * count
        for layers, value in self.entries:
            for layer in layers.resolve(count):
                values[layer] = value
        return tuple(values)


def parse_values(text: str) -> ValueList:
    """Parse `layers=value; layers=value`; an empty text names no layer."""
    entries: list[tuple[Selection, float]] = []
    for entry in (part.strip() for part in text.strip().removesuffix(";").split(";") if part):
        layers, equals, value = entry.partition("=")
        try:
            if not equals:
                raise ValueError
            number = float(value)
        except ValueError:
            raise ValueError(
                f"schedule: cannot read {entry!r} in {text!r}; write layers=value and separate "
                "entries with semicolons, such as all=0.7; 44,45=0"
            ) from None
        entries.append((parse_selection(layers, "layers"), number))
    return ValueList(text, tuple(entries))


def values_text(values: Mapping[int, float], count: int) -> str:
    """The shortest text that `parse_values` reads as these values of layers of a model of `count`.

    Layers that are not among them are not named.
    """
    groups: dict[float, list[int]] = {}
    for layer, value in sorted(values.items()):
        groups.setdefault(value, []).append(layer)
    entries = {
        value: f"{in_runs(layers).replace(' ', '')}={value:g}" for value, layers in groups.items()
    }
    found: list[str] = []
    if len(values) == count:
        found += [
            "; ".join([f"all={base:g}", *(text for v, text in entries.items() if v != base)])
            for base in entries
        ]
    return min([*found, "; ".join(entries.values())], key=len)
