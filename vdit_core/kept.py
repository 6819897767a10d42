"""Finished samplings as files, so that a sweep that was broken off need not run them again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .files import write_tensors
from .keys import key_of


@dataclass(frozen=True)
class Finished:
    """What a sampling ended with. samples: its latent. clean, noisy: what its callback heard last.

    The callback's are for previews and for samplers with a second output; None if it heard nothing.
    """

    samples: Tensor
    clean: Tensor | None = None
    noisy: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: x for name, x in vars(self).items() if x is not None}


def save_finished(kept: Finished, path: Path, label: str) -> None:
    """label: for people who open the file."""
    tensors = {name: x.detach().cpu().clone() for name, x in kept.tensors.items()}
    write_tensors(path, tensors, {"vdit_kept": label, "checked": key_of(tensors)})


def load_finished(path: Path) -> Finished | None:
    """None for a file that is not there, or not as it was written: it must be sampled again."""
    try:
        with safe_open(path, framework="pt") as file:
            checked = (file.metadata() or {}).get("checked")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError):
        return None
    return Finished(**tensors) if checked == key_of(tensors) else None
