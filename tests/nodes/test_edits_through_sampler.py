"""Every edit, through ComfyUI's sampler and each of core's attention functions, against float64.

The tokens form a 3 × 5 × 7 grid, cond and uncond share a batch of two videos each, and cfg is 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.ldm.modules.attention as core
import comfy.ldm.wan.model
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.oracle import Case, Wish, assert_as_good_as_torch, no_wish
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.program import Window

BACKENDS = ["attention_basic", "attention_sub_quad", "attention_split", "attention_pytorch"]
Expect = Callable[[tiny.Seen, Wish], None]


def table(seen: tiny.Seen, heads: list[int], branch: str = "both", items: Any = (0, 1)) -> Tensor:
    """[B, H] bool: these heads of these videos in this branch. Chunk 0 is cond, chunk 1 uncond."""
    chunks = {"both": (0, 1), "cond": (0,), "uncond": (1,)}[branch]
    rows = [c in chunks and i in items for c in seen.chunks for i in range(seen.items)]
    out = torch.zeros(len(rows), tiny.HEADS, dtype=torch.bool)
    out[:, heads] = True
    return out & torch.tensor(rows)[:, None]


class Example:
    """An edit as a node makes it, and what it should do to a call, written down by hand."""

    def __init__(self, attach: Callable[[ModelPatcher], ModelPatcher], expect: Expect) -> None:
        self.attach, self.expect = attach, expect


def set_where(values: Tensor, where: Tensor, value: float) -> None:
    values[where] = value


def expect_temperature(seen: tiny.Seen, wish: Wish) -> None:
    if seen.layer in (0, 2):
        wish.temperature[table(seen, [0, 3])] *= 0.3


def expect_cond_temperature(seen: tiny.Seen, wish: Wish) -> None:
    wish.temperature[table(seen, [0, 1, 2, 3], "cond")] *= 2.5


def expect_skip(seen: tiny.Seen, wish: Wish) -> None:
    if seen.layer > 0:
        set_where(wish.gate, table(seen, [1], "uncond"), 0.0)


def expect_identity(seen: tiny.Seen, wish: Wish) -> None:
    if seen.layer == 1:
        set_where(wish.identity, table(seen, [0, 1, 2, 3]), 1.0)


def expect_uniform(seen: tiny.Seen, wish: Wish) -> None:
    set_where(wish.uniform, table(seen, [2, 3], "cond"), 0.4)
    set_where(wish.identity, table(seen, [2, 3], "cond"), 0.0)


def expect_transfer(seen: tiny.Seen, wish: Wish) -> None:
    set_where(wish.strength, table(seen, [0, 1, 2, 3], items=(1,)), 1.0)
    wish.rows.copy_(torch.tensor([0, 0, 2, 2]))


def expect_transfer_in_part(seen: tiny.Seen, wish: Wish) -> None:
    if seen.layer != 1:
        set_where(wish.strength, table(seen, [0, 2], "cond", items=(1,)), 0.6)
        wish.rows.copy_(torch.tensor([0, 0, 2, 2]))


EXAMPLES = {
    "temperature": Example(
        lambda m: tiny.edited(m, Temperature(0.3), "0,2", "0,-1"), expect_temperature
    ),
    "temperature of cond": Example(
        lambda m: tiny.edited(m, Temperature(2.5), branch="cond"), expect_cond_temperature
    ),
    "skip": Example(lambda m: tiny.edited(m, Skip(), "1-2", "1", branch="uncond"), expect_skip),
    "identity": Example(lambda m: tiny.edited(m, Perturb("identity", 1.0), "mid"), expect_identity),
    "uniform": Example(
        lambda m: tiny.edited(m, Perturb("uniform", 0.4), heads="2-3", branch="cond"),
        expect_uniform,
    ),
    "transfer": Example(lambda m: tiny.edited(m, PairTransfer(1.0)), expect_transfer),
    "transfer in part": Example(
        lambda m: tiny.edited(m, PairTransfer(0.6), "!1", "0,2", branch="cond"),
        expect_transfer_in_part,
    ),
}
COMBINATIONS = {
    **{name: [name] for name in EXAMPLES},
    "two temperatures": ["temperature", "temperature of cond"],
    "two maps": ["identity", "uniform"],
    "all": ["temperature", "skip", "identity", "uniform", "temperature of cond", "transfer"],
    "all reversed": ["transfer in part", "temperature of cond", "uniform", "temperature", "skip"],
}


def expected(names: list[str], seen: tiny.Seen) -> Wish:
    wish = no_wish(seen.q.shape[0], tiny.HEADS)
    if not seen.cross:
        for name in names:
            EXAMPLES[name].expect(seen, wish)
    return wish


def spied_calls(
    model: ModelPatcher, function: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> list[tiny.Seen]:
    spy = tiny.Spy(function)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", spy)
    positive = tiny.prompt(1, batch=2)
    tiny.sample(model, positive=positive, latent={**tiny.empty_latent(2), "batch_index": [0, 0]})
    return spy.seen


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", COMBINATIONS)
def test_edits_are_as_exact_as_plain_torch(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, names = tiny.tiny_wan(), COMBINATIONS[name]
    for each in names:
        model = EXAMPLES[each].attach(model)
    function = getattr(core, backend)
    calls = spied_calls(model, function, monkeypatch)
    assert len(calls) == 2 * 2 * tiny.LAYERS
    assert {tuple(sorted(seen.chunks)) for seen in calls} == {(0, 1)}
    assert {seen.items for seen in calls} == {2}
    for seen in calls:
        wish = expected(names, seen)
        if seen.cross:
            assert torch.equal(seen.out, seen.plain(function))
        else:
            assert seen.q.shape[2] == tiny.TOKENS
            assert_as_good_as_torch(seen.out, Case(seen.q, seen.k, seen.v, wish))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", COMBINATIONS)
def test_edits_are_as_exact_as_plain_torch_in_half_precision(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, names = tiny.tiny_wan(dtype=dtype), COMBINATIONS[name]
    for each in names:
        model = EXAMPLES[each].attach(model)
    for seen in spied_calls(model, core.attention_pytorch, monkeypatch):
        if not seen.cross:
            assert seen.q.dtype == dtype
            case = Case(seen.q, seen.k, seen.v, expected(names, seen))
            assert_as_good_as_torch(seen.out, case)


def test_an_edit_acts_inside_its_window_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = tiny.Spy(core.attention_pytorch)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", spy)
    model = tiny.edited(tiny.tiny_wan(), Temperature(0.2), window=Window(0.2, 0.75))
    tiny.sample(model, steps=6)
    sampling: Any = model.get_model_object("model_sampling")
    high, low = sampling.percent_to_sigma(0.2), sampling.percent_to_sigma(0.75)
    acted = {
        s.sigma: not torch.equal(s.out, s.plain(spy.function)) for s in spy.seen if not s.cross
    }
    assert len(acted) == 6
    assert acted == {sigma: low < sigma <= high for sigma in acted}
    assert 0 < sum(acted.values()) < 6


def test_a_forgotten_edit_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = EXAMPLES["temperature"].attach(tiny.tiny_wan())
    first = spied_calls(model, core.attention_pytorch, monkeypatch)[0]
    with pytest.raises(AssertionError, match="twice plain torch"):
        wish = no_wish(first.q.shape[0], tiny.HEADS)
        assert_as_good_as_torch(first.out, Case(first.q, first.k, first.v, wish))
