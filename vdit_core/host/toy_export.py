"""Write the trained toy world as safetensors: `python -m …vdit_core.host.toy_export --folder DIR`.

Takes the averaged weights of the checkpoints `model.pt` and `vae.pt`, which may still be training.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..toy.config import WAN_CONFIG
from ..toy.text import WORDS, word_vectors

WEIGHTS = Path(__file__).parent.parent / "toy" / "weights"


def export_toy_world(checkpoints: Path, folder: Path = WEIGHTS) -> list[str]:
    """Write the three files into `folder`; return one line about each."""
    model, model_step = _averaged(checkpoints / "model.pt")
    vae, vae_step = _averaged(checkpoints / "vae.pt")
    config = json.dumps({"transformer": WAN_CONFIG})
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        _write(folder / "toy_wan.safetensors", model, {"config": config, "step": str(model_step)}),
        _write(folder / "toy_wan_vae.safetensors", vae, {"step": str(vae_step)}),
    ]
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
    options = parser.parse_args()
    for line in export_toy_world(options.folder, options.out):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
