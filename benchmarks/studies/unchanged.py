"""Where nothing may change: the number of values that differ, which must be 0.

Neutral nodes against no node, a second queue against the first, and a model after an edited
sampling that ended, raised or was cancelled against the same model before.
"""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...vdit_core.edits import Change
from ...vdit_core.edits.gate import Skip
from ...vdit_core.edits.perturb import Perturb
from ...vdit_core.edits.sparsity import Sparsify
from ...vdit_core.edits.temperature import Temperature
from ...vdit_core.edits.transfer import PairTransfer
from ...vdit_core.host.comfy import attach
from ...vdit_core.program import Asker, Capture, Edit
from ...vdit_core.record import Record
from ...vdit_core.selection import parse_selection, parse_where
from ..checks import Check, at_most
from ..watch import Sampling

SHAPE = (2, 16, 5, 8, 8)  # a pair of the toy world's usual size
STOP = 3  # the step at which a sampling is broken off
ACTIVE: dict[str, Change] = {
    "temperature": Temperature(0.5),
    "transfer": PairTransfer(1.0),
    "perturb": Perturb("uniform", 0.5),
    "skip heads": Skip(),
    "sparsity": Sparsify((0.5,) * 6),
    "block sparsity": Sparsify((0.5,) * 6, "block", block_size=32, reuse=2),
}
NEUTRAL: dict[str, Change] = {
    "temperature 1": Temperature(1.0),
    "transfer, strength 0": PairTransfer(0.0),
    "perturb, strength 0": Perturb("identity", 0.0),
    "sparsity 0": Sparsify((0.0,) * 6),
}


class Broken(RuntimeError):
    """What a sampling is broken off with."""


def run(quick: bool = False) -> list[Check]:
    """One count per fact."""
    sampling = Sampling(SHAPE, steps=6)
    plain = sampling(sampling.model)
    return [
        *_neutral_nodes(sampling, plain),
        *_second_queue(sampling),
        *_after(sampling, plain, "ended", lambda step: None),
        *_after(sampling, plain, "raised at step 3", _raise),
        *_after(sampling, plain, "was cancelled at step 3", _cancel),
    ]


def _neutral_nodes(sampling: Sampling, plain: Tensor) -> list[Check]:
    found = {name: sampling(_edited(sampling.model, change)) for name, change in NEUTRAL.items()}
    for name, change in ACTIVE.items():
        found[f"{name}, layers none"] = sampling(_edited(sampling.model, change, "none"))
    found["capture"] = sampling(_captured(sampling.model, Record()))
    return [_differing(f"{name}, against no node", out, plain) for name, out in found.items()]


def _second_queue(sampling: Sampling) -> list[Check]:
    checks: list[Check] = []
    for name, change in ACTIVE.items():
        model = _edited(sampling.model, change)
        first = sampling(model)
        checks.append(_differing(f"{name}, second queue against first", sampling(model), first))
    record = Record()
    watched = _captured(sampling.model, record)
    maps = [_maps(sampling, watched, record) for _ in range(2)]
    return [*checks, _differing("captured maps, second queue against first", *maps)]


def _after(
    sampling: Sampling, plain: Tensor, ending: str, callback: Callable[[int], None]
) -> list[Check]:
    """The plain model, and the edited one, once an edited sampling has come to this end."""
    model = sampling.model
    for name, change in ACTIVE.items():
        if name != "block sparsity":  # a layer has one way to drop weights
            model = _edited(model, change)
    whole = sampling(model)
    if _breaks(lambda: sampling(model, callback)) != (ending != "ended"):
        raise RuntimeError(f"the sampling should have {ending}, but it has not")
    return [
        _differing(f"no node, after an edited sampling {ending}", sampling(sampling.model), plain),
        _differing(f"all edits, after such a sampling {ending}", sampling(model), whole),
    ]


def _breaks(sample: Callable[[], Tensor]) -> bool:
    """Whether a sampling is broken off."""
    try:
        sample()
    except (Broken, comfy.model_management.InterruptProcessingException):
        comfy.model_management.interrupt_current_processing(False)
        return True
    return False


def _raise(step: int) -> None:
    if step == STOP:
        raise Broken


def _cancel(step: int) -> None:
    if step == STOP:
        comfy.model_management.interrupt_current_processing(True)


def _edited(model: ModelPatcher, change: Change, layers: str = "all") -> ModelPatcher:
    return attach(model, Edit(Asker("unchanged"), change, parse_where(layers, "0-1")))


def _captured(model: ModelPatcher, record: Record) -> ModelPatcher:
    where, steps = parse_where("all", "all"), parse_selection("mid", "steps")
    return attach(model, Capture(Asker("unchanged"), where, steps, record))


def _maps(sampling: Sampling, model: ModelPatcher, record: Record) -> Tensor:
    sampling(model)
    return torch.stack([m.measures.pooled_map for m in record.data.measurements])


def _differing(name: str, a: Tensor, b: Tensor) -> Check:
    note = f"of {a.numel():,}"
    return at_most(name, int((a != b).sum()), 0, "values differ", note)
