"""What each node costs: sampling time as a ratio to plain sampling, measured in one run.

A tiny Wan with random weights on 5 × 16 × 16 tokens, so that attention is a fair part of the work.
The variants are sampled in turn, several rounds, and each ratio is the median over the rounds.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP

from ...vdit_core.edits import Change
from ...vdit_core.edits.gate import Skip
from ...vdit_core.edits.perturb import Perturb
from ...vdit_core.edits.replay import Replay
from ...vdit_core.edits.sparsity import Sparsify
from ...vdit_core.edits.temperature import Temperature
from ...vdit_core.edits.transfer import PairTransfer
from ...vdit_core.host.comfy import attach
from ...vdit_core.host.toy_sampling import encode_prompts
from ...vdit_core.host.toy_world import load_toy_world
from ...vdit_core.program import Asker, Capture, Edit, Keep
from ...vdit_core.record import Record
from ...vdit_core.selection import parse_selection, parse_where
from ...vdit_core.sources import Folder, Memory, Shelf, Source
from ..checks import Check

SHAPE = (2, 16, 5, 16, 16)  # a pair; 1,280 tokens
STEPS = 4
EVERYWHERE = parse_where("all", "all")
CHANGES: dict[str, Change] = {
    "VDiTTemperature": Temperature(0.7),
    "VDiTTransfer, strength 1": PairTransfer(1.0),
    "VDiTTransfer, strength 0.5": PairTransfer(0.5),
    "VDiTPerturb identity": Perturb("identity", 1.0),
    "VDiTPerturb uniform": Perturb("uniform", 1.0),
    "VDiTPerturb uniform, strength 0.5": Perturb("uniform", 0.5),
    "VDiTSkipHeads, every head": Skip(),
    "VDiTSparsity block, chosen once": Sparsify((0.7,) * 6, "block", reuse=STEPS),
}


def run(quick: bool = False) -> list[Check]:
    """One check per node: its time divided by plain sampling's."""
    model, clip, _ = load_toy_world()
    with TemporaryDirectory() as folder:
        return _costs(model, clip, Path(folder), rounds=2 if quick else 3)


def _costs(model: ModelPatcher, clip: CLIP, folder: Path, rounds: int) -> list[Check]:
    prompts = ["a red circle still on a dark background", "a blue ring still on a dark background"]
    positive, negative = encode_prompts(clip, prompts), encode_prompts(clip, ["", ""])
    models = variants(model) | sources(model, folder)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, patched in models.items():
            began = time.perf_counter()
            _sample(patched, positive, negative)
            seconds[name].append(time.perf_counter() - began)
    plain = seconds.pop("plain")
    note = f"{STEPS} steps, {SHAPE[0]} videos of 1,280 tokens, all layers; median of {len(plain)}"
    return [
        Check(f"cost of {name}", _ratio(times, plain), "× plain sampling", note=note)
        for name, times in seconds.items()
    ]


def variants(model: ModelPatcher) -> dict[str, ModelPatcher]:
    """The plain model and one with each node."""
    found = {"plain": model}
    for steps in ("mid", "all"):
        capture = Capture(Asker("cost"), EVERYWHERE, parse_selection(steps, "steps"), Record())
        found[f"VDiTCapture, steps {steps}"] = attach(model, capture)
    for name, change in CHANGES.items():
        found[name] = attach(model, Edit(Asker("cost"), change, EVERYWHERE))
    return found


def sources(model: ModelPatcher, folder: Path) -> dict[str, ModelPatcher]:
    """Q and K kept and replayed, in memory and on disk: each replay is of the source before it."""
    found: dict[str, ModelPatcher] = {}
    shelves: dict[str, Shelf] = {"memory": Memory(lambda: 2**40), "disk": Folder(folder / "kept")}
    for where, shelf in shelves.items():
        source = Source(shelf)
        keep = Keep(Asker("cost"), EVERYWHERE, source)
        found[f"VDiTRecordSource, {where}"] = attach(model, keep)
        edit = Edit(Asker("cost"), Replay(source, 1.0), EVERYWHERE)
        found[f"VDiTReplaySource, {where}"] = attach(model, edit)
    return found


def _sample(
    model: ModelPatcher, positive: list[list[object]], negative: list[list[object]]
) -> None:
    empty = torch.zeros(SHAPE)
    noise = comfy.sample.prepare_noise(empty, 1, [0, 0])
    settings = (STEPS, 4.0, "euler", "simple")
    comfy.sample.sample(
        model, noise, *settings, positive, negative, empty, disable_pbar=True, seed=1
    )


def _ratio(times: list[float], plain: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, plain, strict=True))
