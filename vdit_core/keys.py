"""A key for Python values: equal for equal content, also in another process."""

from __future__ import annotations

import functools
import types
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

_FEW = 16  # values that stand for a tensor of weights
_MOST_OBJECTS, _MOST_BYTES = 200_000, 1 << 30
_PYTHON_CLASS = 1 << 9  # Py_TPFLAGS_HEAPTYPE; others hold what Python cannot see
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_NAMED = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, range, slice)


class Unkeyed(ValueError):
    """A value whose content cannot be read, and where it is."""


@dataclass(frozen=True)
class Few:
    """Tensors anywhere in `content` are known by size, type and a few of their values."""

    content: object


def key_of(value: object, refused: tuple[type, ...] = ()) -> str:
    """40 hex digits that tell apart values of other content; raises Unkeyed where it cannot.

    Functions are known by name, code and closure, objects by class and attributes. refused: types
    of objects that are not to be read.
    """
    reader = _Reader(refused)
    reader.read(value)
    return reader.digest.hexdigest()


class _Reader:
    """Feeds a digest with all there is in a value, depth first."""

    def __init__(self, refused: tuple[type, ...]) -> None:
        self.digest, self.refused = blake2b(digest_size=20), refused
        self.inside: list[int] = []  # ids of what is being read, outermost first
        self.path: list[str] = []
        self.few, self.objects, self.bytes = False, 0, 0

    def read(self, value: Any) -> None:
        kind = type(value)
        if isinstance(value, (*_PLAIN, *_NAMED)) and not isinstance(value, Enum):
            return self._put(kind.__name__, repr(value))
        if isinstance(value, uuid.UUID):  # names an object, says nothing of its content
            return self._put("uuid")
        if isinstance(value, type):
            return self._put("class", *(f"{c.__module__}.{c.__qualname__}" for c in value.__mro__))
        if id(value) in self.inside:  # an object that holds itself
            return self._put("again", str(self.inside.index(id(value))))
        self.objects += 1
        if self.objects > _MOST_OBJECTS or self.bytes > _MOST_BYTES:
            raise self._unkeyed("more than can be read")
        self.inside.append(id(value))
        self._read_parts(value)
        self.inside.pop()

    def _read_parts(self, value: Any) -> None:
        if isinstance(value, self.refused):
            raise self._unkeyed(f"a {type(value).__name__}")
        if isinstance(value, Few):
            few, self.few = self.few, True
            self.read(value.content)
            self.few = few
        elif isinstance(value, Tensor):
            self._read_tensor(value)
        elif isinstance(value, Mapping):
            self._read_mapping(value)
        elif isinstance(value, (list, tuple)):
            self._put("list", str(len(value)))
            for n, item in enumerate(value):
                self._read_at(f"[{n}]", item)
        elif isinstance(value, (set, frozenset)):
            self._put("set", *sorted(key_of(item, self.refused) for item in value))
        else:
            self._read_object(value)

    def _read_mapping(self, value: Mapping[Any, Any]) -> None:
        self._put("mapping", str(len(value)))
        names = [(key_of(name, self.refused), name) for name in value]
        for key, name in sorted(names, key=lambda pair: pair[0]):
            self._put(key)
            self._read_at(f".{name}", value[name])

    def _read_tensor(self, value: Any) -> None:
        self._put("tensor", type(value).__name__, str(value.dtype), str(tuple(value.shape)))
        if hasattr(value, "__tensor_flatten__"):  # of several tensors, such as quantised weights
            for name in value.__tensor_flatten__()[0]:
                self._read_at(f".{name}", getattr(value, name))
            return
        if value.device.type == "meta" or value.layout != torch.strided:
            raise self._unkeyed(f"a tensor on {value.device} with layout {value.layout}")
        flat = value.detach().as_subclass(Tensor).reshape(-1)
        if self.few and len(flat) > _FEW:
            places = torch.linspace(0, len(flat) - 1, _FEW, dtype=torch.float64).long()
            flat = flat[places.to(flat.device)]
        raw = flat.cpu().contiguous().view(torch.uint8).numpy().tobytes()
        self.bytes += len(raw)
        self.digest.update(raw)

    def _read_object(self, value: Any) -> None:
        if isinstance(value, Enum):
            self.read(type(value))
            self._put(value.name)
        elif isinstance(value, types.FunctionType):
            self._read_function(value)
        elif isinstance(value, types.MethodType):
            self._put("method")
            self._read_mapping({"": value.__func__, "__self__": value.__self__})
        elif isinstance(value, functools.partial):
            self._put("partial")
            self._read_mapping({"": value.func, "args": value.args, "keywords": value.keywords})
        elif isinstance(value, types.BuiltinFunctionType):
            self._put("builtin", value.__module__ or "", value.__qualname__)
            if not isinstance(value.__self__, types.ModuleType):
                self._read_at(".__self__", value.__self__)
        elif isinstance(value, types.ModuleType):
            self._put("module", value.__name__)
        elif type(value).__module__ == "numpy" and not value.dtype.hasobject:
            self._put("numpy", str(value.dtype), str(value.shape), value.tobytes().hex())
        else:
            self._read_attributes(value)

    def _read_function(self, function: types.FunctionType) -> None:
        self._put("function", function.__module__, function.__qualname__)
        self._read_code(function.__code__)
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        self._read_at("defaults", (function.__defaults__, function.__kwdefaults__))
        self._read_mapping({name: _content(cell) for name, cell in cells})

    def _read_code(self, code: types.CodeType) -> None:
        self._put("code", code.co_code.hex(), *code.co_names, *code.co_varnames)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._read_code(constant)
            else:
                self.read(constant)

    def _read_attributes(self, value: Any) -> None:
        """An object of a class written in Python: everything it holds."""
        bases = [c for c in type(value).__mro__ if c is not object]
        readable = hasattr(value, "__dict__") or any("__slots__" in vars(c) for c in bases)
        if not (readable and all(c.__flags__ & _PYTHON_CLASS for c in bases)):
            raise self._unkeyed(f"a {type(value).__module__}.{type(value).__qualname__}")
        self.read(type(value))
        slots = [name for c in bases for name in _names(vars(c).get("__slots__", ()))]
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        held |= getattr(value, "__dict__", {})
        self._read_mapping({name: x for name, x in held.items() if name != "__weakref__"})

    def _read_at(self, name: str, value: object) -> None:
        with self._at(name):
            self.read(value)

    @contextmanager
    def _at(self, name: str) -> Iterator[None]:
        self.path.append(name)
        yield
        self.path.pop()

    def _put(self, *words: str) -> None:
        for word in words:
            raw = word.encode("utf-8", "surrogatepass")
            self.digest.update(len(raw).to_bytes(8, "little") + raw)

    def _unkeyed(self, what: str) -> Unkeyed:
        return Unkeyed(f"{''.join(self.path).lstrip('.') or 'the value'} is {what}")


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not filled yet


def _names(slots: str | tuple[str, ...]) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)
