"""How exact each edit is: every attention call inside ComfyUI's sampler against the formula.

The formula is written out below in plain torch with whole maps. In float64 it is the truth; in the
dtype the call has it is the yardstick: an edit may be at most twice as far from the truth. Grids of
3 × 5 × 7 tokens, pairs, cond and uncond in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...vdit_core.edits import Change
from ...vdit_core.edits.gate import Skip
from ...vdit_core.edits.perturb import Perturb
from ...vdit_core.edits.temperature import Temperature
from ...vdit_core.edits.transfer import PairTransfer
from ...vdit_core.host.comfy import attach
from ...vdit_core.program import Asker, Edit
from ...vdit_core.selection import parse_where
from ..checks import Check, at_least, at_most
from ..watch import Heard, Sampling, listening

LAYERS, HEADS = (1, 4), (0, 2, 3)  # what most cases edit
WHERE = parse_where("1,4", "0,2-3")
BUDGET = 2.0  # times the error of plain torch in the same dtype
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Formula:
    """out = gate · M V for the chosen heads, in the words of the two papers."""

    temperature: float = 1.0
    identity: float = 0.0
    uniform: float = 0.0
    strength: float = 0.0
    gate: float = 1.0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v: [B, H, L, D] with sources in even rows, targets in odd ones."""
        scores = q @ k.transpose(-1, -2) / (q.shape[-1] ** 0.5 * self.temperature)
        own = scores.softmax(-1)
        source = own.clone()
        source[1::2] = own[0::2]
        maps = (1 - self.strength) * own + self.strength * source
        eye, mean = torch.eye(q.shape[2], dtype=q.dtype), 1 / q.shape[2]
        maps = (1 - self.identity - self.uniform) * maps
        return self.gate * ((maps + self.identity * eye + self.uniform * mean) @ v)


@dataclass(frozen=True)
class Case:
    """Nodes, and what they should do together."""

    name: str
    changes: Sequence[Change]
    formula: Formula
    branch: str = "both"


CASES = (
    Case("untouched", [], Formula()),
    Case("temperature 0.7", [Temperature(0.7)], Formula(temperature=0.7)),
    Case("temperature 2.5, cond only", [Temperature(2.5)], Formula(temperature=2.5), "cond"),
    Case("transfer", [PairTransfer(1.0)], Formula(strength=1.0)),
    Case("transfer, strength 0.4", [PairTransfer(0.4)], Formula(strength=0.4)),
    Case("perturb identity", [Perturb("identity", 1.0)], Formula(identity=1.0)),
    Case("perturb uniform", [Perturb("uniform", 1.0)], Formula(uniform=1.0)),
    Case("perturb identity, strength 0.3", [Perturb("identity", 0.3)], Formula(identity=0.3)),
    Case("perturb uniform, uncond only", [Perturb("uniform", 0.6)], Formula(uniform=0.6), "uncond"),
    Case("skip heads", [Skip()], Formula(gate=0.0)),
    Case(
        "temperature, transfer and perturb together",
        [Temperature(0.7), PairTransfer(0.5), Perturb("uniform", 0.2)],
        Formula(temperature=0.7, strength=0.5, uniform=0.2),
    ),
)


def run(quick: bool = False) -> list[Check]:
    """One ratio per case and dtype."""
    sampling = Sampling()
    checks: list[Check] = []
    for dtype in DTYPES:
        checks += [_check(sampling, case, dtype) for case in CASES]
    return [*checks, _batched(sampling)]


def _check(sampling: Sampling, case: Case, dtype: torch.dtype) -> Check:
    model = sampling.model
    for change in case.changes:
        edit = Edit(Asker("exactness"), change, WHERE, branch=case.branch)
        model = attach(model, edit)
    errors = torch.zeros(2, 2, dtype=torch.float64)  # ours and plain, heads not meant and meant

    def hear(call: Heard) -> None:
        if call.layer in LAYERS:
            meant = _meant(call, case)
            truth, yardstick = (_expected(call, case, meant, d) for d in (torch.float64, dtype))
            for row, out in enumerate((call.out, yardstick)):
                far = (out - truth).abs().amax((-1, -2))
                for column, heads in enumerate((far[~meant], far[meant])):
                    largest = heads.max() if len(heads) else heads.sum()
                    errors[row, column] = torch.maximum(errors[row, column], largest)

    with listening(hear, dtype):
        sampling(model)
    ours, plain = errors
    ratio = torch.where(ours == 0, 0.0, ours / plain).max().item()
    name = f"{case.name}: {str(dtype).removeprefix('torch.')}"
    note = f"largest error {ours.max():.1e}, of plain torch {plain.max():.1e}"
    return at_most(name, ratio, BUDGET, "× plain torch", note)


def _meant(call: Heard, case: Case) -> Tensor:
    """The rows and heads the case edits, [B, H] bool."""
    wanted = {"both": (0, 1), "cond": (0,), "uncond": (1,)}[case.branch]
    rows = torch.tensor([branch in wanted for branch in call.branches])
    return rows[:, None] & torch.isin(torch.arange(call.q.shape[1]), torch.tensor(HEADS))


def _expected(call: Heard, case: Case, meant: Tensor, dtype: torch.dtype) -> Tensor:
    """What the case should give, computed with whole maps in this dtype."""
    q, k, v = (x.to(dtype) for x in (call.q, call.k, call.v))
    return torch.where(meant[:, :, None, None], case.formula(q, k, v), Formula()(q, k, v))


def _batched(sampling: Sampling) -> Check:
    """Whether cond and uncond really shared their batches."""
    shared: list[bool] = []
    with listening(lambda call: shared.append(len(set(call.branches)) == 2)):
        sampling(sampling.model)
    name = "calls that held cond and uncond in one batch"
    return at_least(name, sum(shared) / len(shared), 1.0, "share")
