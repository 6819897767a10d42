"""What a capture brings back: measurements with their labels, as a file anyone can open."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .attention.results import KEPT, KEPT_OF_CROSS, MapMeasures, TextMeasures
from .files import write_tensors
from .grid import TokenGrid
from .merging import merged
from .sites import Excerpt

VERSION = 3  # 1 lacked window, tau, rate and the measures after lse_max; 2 what is about text


@dataclass(frozen=True)
class Header:
    """What all measurements of one run share. sigmas: the schedule, one per step and the end.

    window: first and last latent frame of the maps, None for all. tau, rate: see Measures.
    """

    family: str
    layers: int
    heads: int
    grid: TokenGrid
    map_size: int
    sigmas: tuple[float, ...]
    window: tuple[int, int] | None = None
    tau: float | None = None
    rate: float | None = None

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def map_grid(self) -> TokenGrid:
        """The part of the grid that the maps show."""
        return self.grid if self.window is None else self.grid.window(*self.window)

    @property
    def model(self) -> str:
        return f"{self.family} with {self.layers} layers of {self.heads} heads"


@dataclass(frozen=True)
class Label:
    """One call, one batch item. heads: which heads the measures' first axis holds."""

    site: str
    layer: int
    step: int
    evaluation: int
    sigma: float
    branch: str
    item: int
    heads: tuple[int, ...]


@dataclass(frozen=True)
class Measurement(Label):
    """A call in which the video attends to itself, and in joint attention to the text.

    grid: None for the header's; prompts of other lengths make longer or shorter sequences.
    prompt: which one of its branch. excerpt: which latent frames it saw, None for all.
    tokens: of the prompt without its padding, where text was measured; None where it was not.
    """

    measures: MapMeasures = field(repr=False)
    grid: TokenGrid | None = None
    prompt: int = 0
    excerpt: Excerpt | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class CrossMeasurement(Label):
    """A call in which the video attends to the text alone. The rest is as in Measurement."""

    measures: TextMeasures = field(repr=False)
    prompt: int = 0
    excerpt: Excerpt | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class RecordData:
    """A sealed record. cross: what the cross-attention of the same layers does, if captured."""

    header: Header
    measurements: tuple[Measurement, ...]
    cross: tuple[CrossMeasurement, ...] = ()

    def header_of(self, m: Measurement) -> Header:
        """The header as it holds for one measurement."""
        return self.header if m.grid is None else replace(self.header, grid=m.grid)

    def find(self, *, layer: int, step: int, branch: str, item: int = 0) -> Measurement:
        """Of a call the first prompt, the first frames and the first evaluation, in this order.

        Raises ValueError naming what was captured instead.
        """
        wanted = layer, step, branch, item
        found = [m for m in self.measurements if (m.layer, m.step, m.branch, m.item) == wanted]
        if found:
            return min(found, key=_rank)
        raise ValueError(
            f"record: no map of layer {layer}, step {step}, branch {branch}, video {item}; "
            f"captured were layers {_list(m.layer for m in self.measurements)}, "
            f"steps {_list(m.step for m in self.measurements)}, "
            f"branches {_list(m.branch for m in self.measurements)}, "
            f"videos {_list(m.item for m in self.measurements)}; "
            "choose one of these, or widen the choice on VDiT Capture and sample again"
        )


@dataclass(frozen=True)
class Turn:
    """Which sampling of a list: ComfyUI runs a node once for each entry of the lists it is given.

    whose: the queued prompt and the node. index: of the entry, 0 where there is no list.
    """

    whose: tuple[str, str]
    index: int


class Record:
    """The mailbox between a sampling and the nodes that read it; it holds the last run's data.

    Samplings of one list stay side by side, each an entry. The model's options carry the mailbox as
    a reference: copying them must not copy it.
    """

    def __init__(self, data: RecordData | None = None) -> None:
        self._entries: list[RecordData] = [] if data is None else [data]
        self._turn: Turn | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Record:
        return self

    def begin(self, turn: Turn | None = None) -> None:
        """A sampling begins: forget the ones before, if they are no earlier entries of its list."""
        last, self._turn = self._turn, turn
        if last and turn and turn.whose == last.whose:
            del self._entries[turn.index :]
        else:
            self._entries.clear()

    def seal(self, data: RecordData) -> None:
        self._entries.append(data)

    def entry(self, turn: Turn | None) -> RecordData:
        """What belongs to another sampler's turn: the same entry of the list, or the only one."""
        if turn is None or len(self._entries) < 2:
            return self.data
        return self._entries[min(turn.index, len(self._entries) - 1)]

    @property
    def data(self) -> RecordData:
        """All entries as one record. Raises ValueError while nothing has been captured."""
        if not self._entries:
            raise ValueError(
                "record: nothing has been captured yet; connect the sampler's LATENT to this node, "
                "so that it runs after the sampling, and give the sampler the model from VDiT "
                "Capture"
            )
        return merged(self._entries)


PARTS = {"measurements": "", "cross": "cross."}  # of a record, and before the names of tensors


def save_record(data: RecordData, path: Path) -> None:
    """Write a safetensors file whose metadata holds all labels as JSON; whole or not at all."""
    tensors: dict[str, Tensor] = {}
    content: dict[str, Any] = {"version": VERSION, "header": asdict(data.header)}
    for part, before in PARTS.items():
        labels: list[dict[str, Any]] = []
        for index, m in enumerate(getattr(data, part)):
            labels.append(_encoded(m))
            for name, value in vars(m.measures).items():
                if value is not None:
                    tensors[f"{before}{index}.{name}"] = value.contiguous()
        content[part] = labels
    write_tensors(path, tensors, {"vdit_record": json.dumps(content)})


def load_record(path: Path) -> RecordData:
    """Read a record. Raises ValueError for another kind of file or a newer version."""
    try:
        opened = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise _not_a_record(path) from error
    with opened as file:
        text = (file.metadata() or {}).get("vdit_record")
        if text is None:
            raise _not_a_record(path)
        content = json.loads(text)
        if content["version"] > VERSION:
            raise ValueError(
                f"record: {path.name} has format {content['version']}, this pack reads up to "
                f"{VERSION}; update the pack"
            )
        header = content["header"]
        header |= {"grid": _grid(header["grid"]), "sigmas": tuple(header["sigmas"])}
        if header.get("window"):
            header["window"] = tuple(header["window"])
        stored = set(file.keys())

        def tensors(before: str, names: Iterable[str]) -> dict[str, Tensor]:
            return {n: file.get_tensor(before + n) for n in names if before + n in stored}

        measurements = tuple(
            Measurement(
                **_decoded(label),
                measures=MapMeasures(**tensors(f"{PARTS['measurements']}{index}.", KEPT)),
            )
            for index, label in enumerate(content["measurements"])
        )
        cross = tuple(
            CrossMeasurement(
                **_decoded(label),
                measures=TextMeasures(**tensors(f"{PARTS['cross']}{index}.", KEPT_OF_CROSS)),
            )
            for index, label in enumerate(content.get("cross", ()))
        )
    return RecordData(Header(**header), measurements, cross)


def _encoded(m: Measurement | CrossMeasurement) -> dict[str, Any]:
    """The labels of a measurement as JSON takes them."""
    optional = {"grid": getattr(m, "grid", None), "excerpt": m.excerpt}
    label = {k: v for k, v in vars(m).items() if k not in ("measures", *optional)}
    return label | {k: asdict(v) for k, v in optional.items() if v is not None}


def _decoded(stored: dict[str, Any]) -> dict[str, Any]:
    """The labels of a measurement from what JSON made of them."""
    label = stored | {"heads": tuple(stored["heads"])}
    if "grid" in stored:
        label["grid"] = _grid(stored["grid"])
    if "excerpt" in stored:
        label["excerpt"] = Excerpt(tuple(stored["excerpt"]["frames"]), stored["excerpt"]["of"])
    return label


def _grid(stored: dict[str, Any] | None) -> TokenGrid | None:
    """What JSON made of a grid; it has no tuples."""
    if stored is None:
        return None
    text: list[int] | None = stored.pop("text", None)
    return TokenGrid(**stored, text=(text[0], text[1]) if text else None)


def _not_a_record(path: Path) -> ValueError:
    return ValueError(f"record: {path.name} is not a record saved by VDiT Save Record")


def _rank(m: Measurement) -> tuple[object, ...]:
    return m.prompt, m.excerpt.frames if m.excerpt else (), m.evaluation


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, dict.fromkeys(values))) or "none"
