"""What must change nothing changes nothing, bit for bit, and nothing stays behind."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.patcher_extension
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.tests.nodes import tiny
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.host import comfy as host
from vdit_attention.vdit_core.host.comfy import OVERRIDE_KEY, attach
from vdit_attention.vdit_core.program import Asker, Edit
from vdit_attention.vdit_core.selection import parse_heads


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.tiny_wan()


@pytest.fixture(scope="module")
def plain(model: ModelPatcher) -> Tensor:
    return tiny.sample(model)


def strong(model: ModelPatcher) -> ModelPatcher:
    """A model with an edit nobody can miss."""
    return tiny.edited(model, Perturb("identity", 1.0))


def hooks(model: ModelPatcher) -> int:
    modules = model.model.diffusion_model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


NEUTRAL: dict[str, Callable[[ModelPatcher], ModelPatcher]] = {
    "temperature 1": lambda m: tiny.edited(m, Temperature(1.0)),
    "temperature of no layer": lambda m: tiny.edited(m, Temperature(0.1), layers="none"),
    "temperature of no head": lambda m: tiny.edited(m, Temperature(0.1), heads="none"),
    "transfer 0": lambda m: tiny.edited(m, PairTransfer(0.0)),
    "transfer in no layer": lambda m: tiny.edited(m, PairTransfer(1.0), layers="none"),
    "identity 0": lambda m: tiny.edited(m, Perturb("identity", 0.0)),
    "uniform in no layer": lambda m: tiny.edited(m, Perturb("uniform", 1.0), layers="none"),
    "no skipped head": lambda m: attach(m, Edit(Asker("Skip"), Skip(), parse_heads("none"))),
    "capture": lambda m: tiny.watched(m)[0],
    "capture of no layer": lambda m: tiny.watched(m, layers="none")[0],
    "capture of no step": lambda m: tiny.watched(m, steps="none")[0],
    "capture of cond": lambda m: tiny.watched(m, "1", "0,2", "mid", "cond")[0],
    "several": lambda m: tiny.watched(
        tiny.edited(tiny.edited(m, Temperature(1.0)), Skip(), "none")
    )[0],
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_neutral_node_leaves_the_video_bit_identical(
    name: str, model: ModelPatcher, plain: Tensor
) -> None:
    assert torch.equal(tiny.sample(NEUTRAL[name](model)), plain)


def test_the_strong_edit_is_strong(model: ModelPatcher, plain: Tensor) -> None:
    assert float((tiny.sample(strong(model)) - plain).abs().max()) > 1e-2


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "uni_pc"])
def test_capture_leaves_other_samplers_bit_identical(sampler: str, model: ModelPatcher) -> None:
    expected = tiny.sample(model, sampler=sampler, steps=3)
    assert torch.equal(tiny.sample(tiny.watched(model)[0], sampler=sampler, steps=3), expected)


def test_capture_leaves_an_edited_video_bit_identical(model: ModelPatcher) -> None:
    changed = strong(model)
    expected = tiny.sample(changed)
    assert torch.equal(tiny.sample(tiny.watched(changed)[0]), expected)
    before = tiny.edited(tiny.watched(model)[0], Perturb("identity", 1.0))
    assert torch.equal(tiny.sample(before), expected)


def test_the_second_queue_equals_the_first(model: ModelPatcher) -> None:
    changed, record = tiny.watched(strong(model))
    first, measured = tiny.sample(changed), record.data
    assert torch.equal(tiny.sample(changed), first)
    assert record.data is not measured
    assert len(record.data.measurements) == len(measured.measurements)
    for old, new in zip(measured.measurements, record.data.measurements, strict=True):
        assert (old.site, old.step, old.branch, old.evaluation) == (
            *(new.site, new.step),
            *(new.branch, new.evaluation),
        )
        assert torch.equal(old.measures.pooled_map, new.measures.pooled_map)


def test_removing_the_node_restores_the_video(model: ModelPatcher, plain: Tensor) -> None:
    tiny.sample(strong(model))
    assert torch.equal(tiny.sample(model), plain)
    assert hooks(model) == 0


class Stop(Exception):
    pass


def raise_at(step: int) -> Callable[..., None]:
    def callback(at: int, *_: object) -> None:
        if at == step:
            raise Stop

    return callback


def interrupt_at(step: int) -> Callable[..., None]:
    def callback(at: int, *_: object) -> None:
        if at == step:
            comfy.model_management.interrupt_current_processing(True)

    return callback


FAILURES = {
    "raised": (raise_at, Stop),
    "cancelled": (interrupt_at, comfy.model_management.InterruptProcessingException),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_after_a_run_that_failed_at_step_3_all_is_as_before(
    kind: str, model: ModelPatcher, plain: Tensor
) -> None:
    callback, error = FAILURES[kind]
    changed, record = tiny.watched(strong(model))
    expected = tiny.sample(changed)
    with pytest.raises(error):
        tiny.sample(changed, steps=6, callback=callback(3))
    comfy.model_management.interrupt_current_processing(False)
    assert hooks(model) == 0
    assert OVERRIDE_KEY not in changed.model_options["transformer_options"]
    with pytest.raises(ValueError, match="nothing has been captured yet"):
        _ = record.data
    assert torch.equal(tiny.sample(changed), expected)
    assert torch.equal(tiny.sample(model), plain)


def test_hooks_are_there_while_sampling_and_gone_afterwards(model: ModelPatcher) -> None:
    during: list[int] = []
    changed = strong(model)
    tiny.sample(changed, callback=lambda *_: during.append(hooks(model)))
    assert during == [4 * tiny.LAYERS] * 2
    assert hooks(model) == 0


def test_attaching_leaves_the_model_that_was_given_alone(model: ModelPatcher) -> None:
    before = repr(model.model_options)
    changed = tiny.edited(strong(model), Temperature(0.5))
    assert repr(model.model_options) == before
    first = strong(model)
    count = len(first.model_options["transformer_options"][host.PROGRAM_KEY])
    tiny.edited(first, Temperature(0.5))
    assert len(first.model_options["transformer_options"][host.PROGRAM_KEY]) == count == 1
    assert len(changed.model_options["transformer_options"][host.PROGRAM_KEY]) == 2


def test_other_clones_sampled_between_do_not_matter(model: ModelPatcher, plain: Tensor) -> None:
    changed, other = strong(model), tiny.edited(model, Temperature(0.2))
    alone = tiny.sample(changed), tiny.sample(other)
    assert torch.equal(tiny.sample(model.clone()), plain)
    assert torch.equal(tiny.sample(changed), alone[0])
    assert torch.equal(tiny.sample(other), alone[1])


def test_a_direct_call_of_the_same_model_in_the_middle_of_a_run_is_unaffected(
    model: ModelPatcher,
) -> None:
    network = model.model.diffusion_model
    x, t, context = torch.ones(1, 16, 3, 5, 7), torch.ones(1) * 500, torch.ones(1, 8, 24)
    expected, between = network(x, t, context), list[Tensor]()
    changed, record = tiny.watched(strong(model))
    alone = tiny.sample(changed)
    count = len(record.data.measurements)

    def callback(*_: object) -> None:
        between.append(network(x, t, context))

    assert torch.equal(tiny.sample(changed, callback=callback), alone)
    assert [torch.equal(out, expected) for out in between] == [True, True]
    assert len(record.data.measurements) == count


def test_a_second_node_adds_no_second_run(model: ModelPatcher) -> None:
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    twice = tiny.edited(strong(model), Temperature(0.5))
    assert twice.get_wrappers(kind, host.WRAPPER_KEY) == [host.sample_with_program]
