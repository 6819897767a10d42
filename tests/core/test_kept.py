"""Finished samplings as files: what comes back, and what must be sampled again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vdit_attention.vdit_core.kept import Finished, load_finished, save_finished


def example() -> Finished:
    return Finished(torch.randn(1, 4, 3, 5, 7), torch.randn(1, 4, 3, 5, 7), torch.zeros(0))


def test_it_comes_back_to_the_bit(tmp_path: Path) -> None:
    kept, path = example(), tmp_path / "deeper" / "a.safetensors"
    save_finished(kept, path, "layer 3")
    found = load_finished(path)
    assert found is not None
    assert all(torch.equal(found.tensors[name], x) for name, x in kept.tensors.items())
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_without_a_callback_there_is_the_latent_alone(tmp_path: Path) -> None:
    save_finished(Finished(torch.ones(2)), tmp_path / "a", "none")
    found = load_finished(tmp_path / "a")
    assert found is not None and torch.equal(found.samples, torch.ones(2))
    assert found.clean is None and found.noisy is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": cut,
    "one bit": flip,
    "another file": lambda path: save_file({"samples": torch.ones(2)}, path),
    "its name alone": lambda path: save_file(load_file(path), path, {"vdit_kept": "layer 3"}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_counts_as_none(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_finished(example(), path, "layer 3")
    DAMAGE[name](path)
    assert load_finished(path) is None
