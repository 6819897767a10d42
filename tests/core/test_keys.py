"""Keys: equal for equal content, different for different content, and honest about the rest."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from vdit_attention.vdit_core import keys
from vdit_attention.vdit_core.keys import Few, Unkeyed, key_of


@dataclass(frozen=True)
class Setting:
    strength: float
    name: str = "a"


class Patch:
    """What another pack puts into a model: an object that holds things."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def apply(self, x: Any) -> Any:
        return x, self.held


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


def closure(factor: float) -> Callable[[float], float]:
    def scaled(x: float, offset: float = 1.0) -> float:
        return factor * x + offset

    return scaled


def derived(base: type) -> type:
    return type("Derived", (base,), {})


def module(value: float) -> nn.Module:
    found = nn.Linear(2, 2)
    nn.init.constant_(found.weight, value)
    nn.init.zeros_(found.bias)
    return found


def ring(value: int) -> list[Any]:
    found: list[Any] = [value]
    found.append(found)
    return found


MAKERS: dict[str, Callable[[int], Any]] = {
    "a number": lambda n: n,
    "a float": lambda n: n + 0.5,
    "a text": lambda n: "x" * n,
    "a numpy number": lambda n: np.float32(n),
    "a list": lambda n: [1, [2, n]],
    "the length of a list": lambda n: [0] * n,
    "a mapping": lambda n: {"a": 1, "b": {"c": n}},
    "a set": lambda n: {"a", "b", n},
    "a tensor": lambda n: torch.tensor([0.0, n]),
    "a tensor of one value": lambda n: torch.tensor(float(n)),
    "a tensor's shape": lambda n: torch.zeros(n, 6 // n),
    "a tensor's type": lambda n: torch.zeros(2, dtype=[torch.float16, torch.bfloat16][n - 1]),
    "one value of many": lambda n: torch.arange(10_000).index_fill(0, torch.tensor(777), -n),
    "eight bits": lambda n: torch.full((3,), float(n)).to(torch.float8_e4m3fn),
    "weights": lambda n: Few({"a": torch.full((300,), float(n))}),
    "the shape of weights": lambda n: Few([torch.zeros(n, 600 // n)]),
    "a dataclass": lambda n: Setting(n),
    "an object": lambda n: Patch([n]),
    "a slot": lambda n: Slotted(n),
    "a method": lambda n: Patch(n).apply,
    "a closure": lambda n: closure(n),
    "a default": lambda n: [lambda x=1: x, lambda x=2: x][n - 1],
    "a body": lambda n: [lambda x: x + 1, lambda x: x - 1][n - 1],
    "a constant in a body": lambda n: [lambda x: x + 1, lambda x: x + 2][n - 1],
    "a partial": lambda n: partial(pow, exp=n),
    "a builtin": lambda n: [max, min][n - 1],
    "a class": lambda n: [Setting, Patch][n - 1],
    "a base of a class": lambda n: derived([Setting, Patch][n - 1]),
    "a module": lambda n: module(n),
    "a ring": lambda n: ring(n),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_key_is_that_of_the_content(name: str) -> None:
    make = MAKERS[name]
    assert key_of(make(1)) == key_of(make(1))
    assert key_of(make(1)) != key_of(make(2))


def test_a_key_does_not_depend_on_order_identity_or_sharing() -> None:
    shared = [1, 2]
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of([shared, shared]) == key_of([[1, 2], [1, 2]])
    assert key_of({"uuid": uuid.uuid4()}) == key_of({"uuid": uuid.uuid4()})
    assert key_of(torch.eye(3).t()) == key_of(torch.eye(3))
    assert key_of(("ab", "c")) != key_of(("a", "bc"))
    assert key_of({Patch(1): 1, Patch(1): 2}) != key_of({Patch(1): 1})


def test_a_key_is_the_same_in_another_process() -> None:
    program = (
        "import sys; from vdit_attention.tests.core.test_keys import MAKERS; "
        "from vdit_attention.vdit_core.keys import key_of; "
        "sys.stdout.write(key_of([make(1) for make in MAKERS.values()]))"
    )
    found: set[str] = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", program]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert len(done.stdout) == 40, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_few_values_stand_for_weights() -> None:
    weights = torch.arange(10_000.0)
    changed = weights.index_fill(0, torch.tensor(777), -1.0)
    assert key_of(Few(weights)) == key_of(Few(changed))
    assert key_of(Few(weights)) != key_of(Few(weights * 1.001))
    huge = torch.zeros(1).expand(1 << 25)  # its last place is none in float32
    assert key_of(Few(huge)) != key_of(Few(huge[1:]))


@pytest.mark.parametrize("hidden", [object(), threading.Lock(), torch.Generator(), iter([1])])
def test_what_cannot_be_read_is_named(hidden: object) -> None:
    with pytest.raises(Unkeyed, match=r"^patches\.attn1\[1\]\.held is a "):
        key_of({"patches": {"attn1": [0, Patch(hidden)]}})


def test_what_is_refused_is_named() -> None:
    with pytest.raises(Unkeyed, match=r"^model is a Patch$"):
        key_of({"model": Patch(1)}, refused=(Patch,))


def test_what_is_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_MOST_OBJECTS", 10)
    with pytest.raises(Unkeyed, match="more than can be read"):
        key_of([[n] for n in range(20)])
    monkeypatch.setattr(keys, "_MOST_BYTES", 100)
    with pytest.raises(Unkeyed, match=r"\[1\] is more than can be read"):
        key_of([torch.zeros(100), torch.zeros(1)])
