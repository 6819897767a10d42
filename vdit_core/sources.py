"""Queries and keys of one sampling, kept so that later samplings can use its maps.

A transferred map is the source's Q and K with the target's V, so these two are all that has to be
kept: in memory, or in a folder with a safetensors file for each row and a header that is written
last. A folder without its header is of a sampling that did not end, and is refused.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from .files import write_tensors

VERSION = 1
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
AHEAD = 4  # rows that are read from a disk before they are needed
HEADER = "source.json"

Key = tuple[str, int, str, int, int]  # site, evaluation, branch, prompt of it, item of the batch


@dataclass(frozen=True)
class Kept:
    """One row of one call. q, k: [heads, L, D]. mask: of its keys, [1, 1, L], if rows differ."""

    q: Tensor
    k: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class SourceHeader:
    """Where and when a source was kept.

    sigmas: its sampler's schedule. levels: the noise level of each evaluation of the model. latent:
    shape of the video, [B, C, F, H, W]. heads: by site those kept. kept: every row, in order.
    """

    family: str
    layers: int
    sampler: str
    sigmas: tuple[float, ...]
    levels: tuple[float, ...]
    latent: tuple[int, ...]
    dtype: str
    heads: dict[str, tuple[int, ...]]
    kept: tuple[Key, ...]

    @cached_property
    def keys(self) -> frozenset[Key]:
        return frozenset(self.kept)

    @property
    def model(self) -> str:
        return f"{self.family} with {self.layers} layers"


class Shelf(Protocol):
    """Where rows are kept. free: bytes there is room for."""

    def free(self) -> int: ...
    def put(self, key: Key, kept: Kept) -> None: ...
    def get(self, key: Key) -> Kept: ...
    def seal(self, header: SourceHeader) -> None: ...
    def drop(self) -> None: ...


class Memory:
    """A shelf in RAM. free: tells the bytes that are left."""

    def __init__(self, free: Callable[[], int]) -> None:
        self._kept: dict[Key, Kept] = {}
        self.free = free

    def put(self, key: Key, kept: Kept) -> None:
        self._kept[key] = kept

    def get(self, key: Key) -> Kept:
        return self._kept[key]

    def seal(self, header: SourceHeader) -> None:
        """Nothing is left to do."""

    def drop(self) -> None:
        self._kept.clear()


class Folder:
    """A shelf on disk. While it is written it has another name, so that no half of one is used."""

    def __init__(self, path: Path) -> None:
        self.path, self._partial = path, path.with_name(path.name + ".partial")
        self._order: dict[Key, Key] = {}  # the row after each
        self._reading: dict[Key, Future[Kept]] = {}
        self._reader = ThreadPoolExecutor(1, "vdit-source")

    def free(self) -> int:
        self._partial.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._partial).free

    def put(self, key: Key, kept: Kept) -> None:
        self._partial.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.contiguous() for k, v in vars(kept).items() if v is not None}
        write_tensors(self._partial / _file(key), tensors)

    def get(self, key: Key) -> Kept:
        """A row; those that will be asked for next are read meanwhile."""
        found, ahead = self._read(key), key
        for _ in range(AHEAD):
            if (ahead := self._order.get(ahead)) is None:
                break
            self._read(ahead)
        self._reading = {k: f for k, f in self._reading.items() if k != key}
        return found.result()

    def seal(self, header: SourceHeader) -> None:
        text = json.dumps({"version": VERSION, "header": asdict(header)})
        (self._partial / HEADER).write_text(text, "utf-8")
        if self.path.exists():
            shutil.rmtree(self.path)
        os.replace(self._partial, self.path)
        self.expect(header.kept)

    def expect(self, keys: tuple[Key, ...]) -> None:
        """In which order rows will be asked for."""
        self._order = dict(pairwise(keys))

    def drop(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)

    def _read(self, key: Key) -> Future[Kept]:
        if key not in self._reading:
            self._reading[key] = self._reader.submit(_load, self.path / _file(key))
        return self._reading[key]


class Source:
    """The mailbox between a sampling that keeps Q and K and those that use them."""

    def __init__(self, shelf: Shelf, header: SourceHeader | None = None) -> None:
        self.shelf, self._header = shelf, header

    def __deepcopy__(self, memo: dict[int, Any]) -> Source:
        return self

    def empty(self) -> None:
        self._header = None
        self.shelf.drop()

    def seal(self, header: SourceHeader) -> None:
        self.shelf.seal(header)
        self._header = header

    @property
    def header(self) -> SourceHeader:
        """Raises ValueError while nothing has been kept."""
        if self._header is None:
            raise ValueError(
                "source: nothing has been kept yet; connect the LATENT of the source's sampler to "
                "this node, so that it runs after that sampling, and give that sampler the model "
                "from VDiT Record Source"
            )
        return self._header


def load_source(path: Path) -> Source:
    """Open a folder that was kept. Raises ValueError for one that was not written to its end."""
    try:
        content = json.loads((path / HEADER).read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"source: {path.name} was not written to its end, or is no source; sample it again "
            "with VDiT Record Source"
        ) from error
    if content["version"] > VERSION:
        raise ValueError(
            f"source: {path.name} has format {content['version']}, this pack reads up to "
            f"{VERSION}; update the pack"
        )
    header = _decoded(content["header"])
    shelf = Folder(path)
    shelf.expect(header.kept)
    return Source(shelf, header)


def _decoded(stored: dict[str, Any]) -> SourceHeader:
    """What JSON made of a header; it has no tuples."""
    tuples: dict[str, Any] = {k: tuple(stored[k]) for k in ("sigmas", "levels", "latent")}
    kept = tuple((str(s), int(n), str(b), int(p), int(i)) for s, n, b, p, i in stored["kept"])
    tuples |= {"kept": kept, "heads": {s: tuple(found) for s, found in stored["heads"].items()}}
    return SourceHeader(**(stored | tuples))


def _file(key: Key) -> str:
    site, evaluation, branch, prompt, item = key
    return f"{evaluation:04}.{site}.{branch}.{prompt}.{item}.safetensors"


def _load(path: Path) -> Kept:
    return Kept(**load_file(path))
