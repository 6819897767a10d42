"""The host for diffusers around a bare transformer: labels, errors, and nothing left behind."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
import torch
from diffusers import MochiTransformer3DModel, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn
from vdit_attention.tests.nodes.diffused import LAYERS, flow, mochi_transformer, wan_transformer
from vdit_attention.vdit_core.edits.footage import FollowFootage
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.guide import Guide
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.footage import Footage
from vdit_attention.vdit_core.host.diffusers import capture, edit, watching
from vdit_attention.vdit_core.program import Window
from vdit_attention.vdit_core.ranking import Ranked


@pytest.fixture(scope="module")
def transformer() -> WanTransformer3DModel:
    return wan_transformer()


@pytest.fixture(scope="module")
def mochi() -> MochiTransformer3DModel:
    return mochi_transformer()


def called(model: WanTransformer3DModel, timestep: float = 500.0, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(batch, 16, 3, 10, 14, generator=generator)
    text = torch.randn(batch, 8, 24, generator=generator)
    return model(video, torch.full((batch,), timestep), text, return_dict=False)[0]


def traces(model: nn.Module) -> list[Any]:
    """Everything that a host could leave on a model."""
    return [
        [(name, list(x) if name.endswith("_hooks") else None) for name, x in vars(module).items()]
        for module in model.modules()
    ]


def test_a_neutral_program_is_bit_identical(transformer: WanTransformer3DModel) -> None:
    plain = called(transformer)
    with watching(transformer, edit(Temperature(1.0)), edit(Skip(), layers="none")):
        assert torch.equal(called(transformer), plain)


def test_a_capture_changes_nothing(transformer: WanTransformer3DModel) -> None:
    plain, look = called(transformer), capture(layers="all", steps="all")
    with watching(transformer, look) as watch:
        assert torch.equal(called(transformer), plain)
    assert watch.lines == ["capture: measured 3 calls of 3 layers"]
    assert [m.site for m in look.record.data.measurements] == [
        f"blocks.{layer}.self_attn" for layer in range(LAYERS)
    ]
    assert look.record.data.header.model == "Wan with 3 layers of 4 heads"


def test_an_edit_leaves_the_steps_outside_its_window_alone(
    transformer: WanTransformer3DModel,
) -> None:
    scheduler = flow(4)
    plain = [called(transformer, float(t)) for t in scheduler.timesteps]
    half = edit(Temperature(0.5), window=Window(0.25, 0.75))
    with watching(transformer, half, scheduler=scheduler):
        changed = [called(transformer, float(t)) for t in scheduler.timesteps]
    assert [torch.equal(a, b) for a, b in zip(plain, changed, strict=True)] == [
        True,
        False,
        False,
        True,
    ]


def test_all_is_taken_off_after_success_failure_and_cancel(
    transformer: WanTransformer3DModel,
) -> None:
    clean, plain = traces(transformer), called(transformer)
    look, change = capture(steps="all"), edit(Skip(), layers="1")
    with watching(transformer, look, change):
        assert traces(transformer) != clean
        called(transformer)
    assert traces(transformer) == clean
    assert len(look.record.data.measurements) == LAYERS
    for stop in (KeyboardInterrupt, ValueError):
        with suppress(stop), watching(transformer, look, change):
            called(transformer)
            raise stop
        assert traces(transformer) == clean
        with pytest.raises(ValueError, match="nothing has been captured"):
            _ = look.record.data
    with pytest.raises(RuntimeError), watching(transformer, change):
        transformer(torch.zeros(1, 16, 3, 10, 14), torch.ones(1), torch.zeros(1, 8, 25))
    assert traces(transformer) == clean
    assert torch.equal(called(transformer), plain)


def test_what_never_happened_is_an_error(transformer: WanTransformer3DModel) -> None:
    with (
        pytest.raises(RuntimeError, match=r"capture: nothing happened at blocks\.0\.self_attn"),
        watching(transformer, capture(steps="all", branch="uncond")),
    ):
        called(transformer)
    with pytest.raises(RuntimeError, match="not called"), watching(transformer, edit(Skip())):
        pass


def test_the_first_step_tells_where_an_edit_acts(transformer: WanTransformer3DModel) -> None:
    scheduler = flow(3)
    change = edit(Perturb("uniform", 0.5), ranked=Ranked(0.34, "high"))
    with watching(transformer, capture(steps="0"), change, scheduler=scheduler) as watch:
        acted = [called(transformer, float(t)) for t in scheduler.timesteps]
    plain = [called(transformer, float(t)) for t in scheduler.timesteps]
    same = [torch.equal(a, b) for a, b in zip(acted, plain, strict=True)]
    assert same == [True, False, False]
    assert re.search(r"high normalised entropy on the first step: layers \d \(0\.", watch.lines[1])


def test_what_does_not_fit_is_refused(transformer: WanTransformer3DModel) -> None:
    with (
        pytest.raises(ValueError, match="guidance is there in ComfyUI only"),
        watching(transformer, edit(Guide(1.0))),
    ):
        pass
    footage = FollowFootage(Footage(torch.ones(1, 16, 3, 5, 7)), (1.0,) * 3)
    with (
        pytest.raises(ValueError, match="footage can be followed in ComfyUI only"),
        watching(transformer, edit(footage)),
    ):
        pass
    with pytest.raises(ValueError, match="layer 3"), watching(transformer, edit(Skip(), "3")):
        pass
    with (
        pytest.raises(ValueError, match="batch of 3"),
        watching(transformer, edit(PairTransfer(1))),
    ):
        called(transformer, batch=3)
    guided = watching(transformer, edit(Skip()), branches=("uncond", "cond"))
    with pytest.raises(ValueError, match="equal parts"), guided:
        called(transformer, batch=3)
    with pytest.raises(ValueError, match="which is no step"), watching(transformer, edit(Skip())):
        called(transformer, 500.0)
        called(transformer, 400.0)
    with pytest.raises(ValueError, match="Linear is no transformer"), watching(nn.Linear(1, 1)):
        pass
    scheduler = flow(2)
    twice = watching(transformer, edit(Skip()), scheduler=scheduler)
    with pytest.raises(ValueError, match="second sampling"), twice:
        for _ in range(2):
            for timestep in scheduler.timesteps:
                called(transformer, float(timestep))


def test_a_backend_that_cannot_be_heard_is_an_error(transformer: WanTransformer3DModel) -> None:
    transformer.set_attention_backend("flex")
    try:
        with pytest.raises(RuntimeError, match="set_attention_backend"):
            with watching(transformer, edit(Skip())):
                called(transformer)
    finally:
        transformer.set_attention_backend("native")  # a reset keeps diffusers' own default
        transformer.reset_attention_backend()


def test_two_programs_may_be_nested(transformer: WanTransformer3DModel) -> None:
    """The outer program then does the inner one's ordinary attention."""
    clean = traces(transformer)
    sharper, fewer = edit(Temperature(0.5)), edit(Skip(), heads="0,2")
    with watching(transformer, sharper, fewer):
        together = called(transformer)
    for outer, inner in ((sharper, fewer), (fewer, sharper)):
        with watching(transformer, outer):
            with watching(transformer, inner):
                torch.testing.assert_close(called(transformer), together)
    assert traces(transformer) == clean


def test_a_pair_whose_rows_differ_in_length_is_refused(mochi: MochiTransformer3DModel) -> None:
    """Mochi's processor leaves each prompt's padding out."""
    text, mask = torch.randn(2, 8, 24), torch.arange(8) < torch.tensor([[6], [3]])
    pair = watching(mochi, edit(PairTransfer(1.0)))
    with pytest.raises(ValueError, match="has 111 tokens here and the target 108"), pair:
        mochi(torch.randn(2, 12, 3, 10, 14), text, torch.ones(2), mask)


def test_a_processor_that_drops_rows_is_refused(transformer: WanTransformer3DModel) -> None:
    class Half(WanAttnProcessor):
        def __call__(self, attn: Any, hidden_states: Tensor, *args: Any) -> Tensor:
            out = super().__call__(attn, hidden_states[:1], *args)
            return torch.cat([out, out])

    attention: Any = transformer.blocks[0].attn1
    usual = attention.processor
    attention.set_processor(Half())
    try:
        with pytest.raises(RuntimeError, match="for 1 of 2 rows"):
            with watching(transformer, capture(steps="all")):
                called(transformer, batch=2)
    finally:
        attention.set_processor(usual)
