"""Write the trained toy world as safetensors: `python -m …vdit_core.host.toy_export --folder DIR`.

Takes the averaged weights of the checkpoints `model.pt` (the Wan), `mochi.pt` and `vae.pt`, which
may still be training. `--parts mochi` writes that one alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..toy.config import MOCHI_CONFIG, MOCHI_MLP_WIDTH, WAN_CONFIG
from ..toy.text import WORDS, word_vectors

WEIGHTS = Path(__file__).parent.parent / "toy" / "weights"


PARTS: dict[str, tuple[str, dict[str, object]]] = {  # file, metadata that says how to build it
    "model": ("toy_wan.safetensors", {"config": {"transformer": WAN_CONFIG}}),
    "mochi": (
        "toy_mochi.safetensors",
        {"toy_mochi": MOCHI_CONFIG | {"mlp_width": MOCHI_MLP_WIDTH}},
    ),
    "vae": ("toy_wan_vae.safetensors", {}),
}


def export_toy_world(
    checkpoints: Path, folder: Path = WEIGHTS, parts: Sequence[str] = tuple(PARTS)
) -> list[str]:
    """Write the files of `parts` and the words into `folder`; return one line about each."""
    averages = {part: _averaged(checkpoints / f"{part}.pt") for part in parts}
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for part, (weights, step) in averages.items():
        name, build = PARTS[part]
        metadata = {key: json.dumps(value) for key, value in build.items()} | {"step": str(step)}
        lines.append(_write(folder / name, weights, metadata))
    words = {"words.weight": word_vectors()}
    return [*lines, _write(folder / "toy_text.safetensors", words, {"words": json.dumps(WORDS)})]


def _averaged(path: Path) -> tuple[dict[str, Tensor], int]:
    """Averaged weights in half precision, and the training step they come from."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no checkpoint; train it first with toy_training")
    state = torch.load(path, weights_only=True, map_location="cpu")
    weights = {name: value.half().contiguous() for name, value in state["average"].items()}
    if bad := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise ValueError(f"{path}: not finite in half precision: {', '.join(bad)}")
    return weights, state["step"]


def _write(path: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> str:
    partial = path.with_suffix(".partial")
    save_file(weights, partial, metadata)
    partial.chmod(0o644)  # save_file lets only the owner read
    os.replace(partial, path)
    count = sum(w.numel() for w in weights.values())
    step = f" from step {metadata['step']}" if "step" in metadata else ""
    return f"{path.name}: {count:,} numbers, {path.stat().st_size / 1e6:.2f} MB{step}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("toy-training"), help="checkpoints")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    for line in export_toy_world(options.folder, options.out, options.parts):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
