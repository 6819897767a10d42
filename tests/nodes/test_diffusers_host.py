"""The host for diffusers: labels, errors, and nothing left behind; in pipelines and without."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    MochiPipeline,
    MochiTransformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn
from vdit_attention.vdit_core.edits.footage import FollowFootage
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.guide import Guide
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.sparsity import Sparsify
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.footage import Footage
from vdit_attention.vdit_core.host.diffusers import capture, edit, watching
from vdit_attention.vdit_core.host.diffusers_steps import Steps
from vdit_attention.vdit_core.program import Window
from vdit_attention.vdit_core.ranking import Ranked
from vdit_attention.vdit_core.record import load_record

LAYERS = 3
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def transformer() -> WanTransformer3DModel:
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        text_dim=24,
        freq_dim=32,
        ffn_dim=96,
        num_layers=LAYERS,
    )
    return model.eval().requires_grad_(False)


def called(model: WanTransformer3DModel, timestep: float = 500.0, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(batch, 16, 3, 10, 14, generator=generator)
    text = torch.randn(batch, 8, 24, generator=generator)
    return model(video, torch.full((batch,), timestep), text, return_dict=False)[0]


def flow(steps: int, **settings: Any) -> Any:
    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    scheduler.set_timesteps(steps)
    return scheduler


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


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_pipeline_names_its_branches_and_steps(
    transformer: WanTransformer3DModel, guidance: float
) -> None:
    pipe = wan_pipeline(transformer)
    plain, look = generated(pipe, guidance), capture(layers="1", steps="all")
    with watching(pipe, look, edit(Temperature(1.0))):
        assert torch.equal(generated(pipe, guidance), plain)
    branches = ["cond", "uncond"] if guidance > 1 else ["cond"]
    assert [(m.step, m.branch, m.item) for m in look.record.data.measurements] == [
        (step, branch, item) for step in range(3) for branch in branches for item in range(2)
    ]
    assert look.record.data.header.sigmas == tuple(pipe.scheduler.sigmas.tolist())
    with watching(pipe, edit(Skip(), layers="0", branch="cond")):
        assert not torch.equal(generated(pipe, guidance), plain)


def test_a_pipeline_may_have_a_transformer_for_late_steps(
    transformer: WanTransformer3DModel,
) -> None:
    torch.manual_seed(1)
    late = WanTransformer3DModel.from_config(transformer.config).eval()
    pipe = wan_pipeline(transformer, transformer_2=late, boundary_ratio=0.8)
    plain, look = generated(pipe, 1.0), capture(layers="1", steps="all")
    with watching(pipe, look, edit(Sparsify((0.5,) * LAYERS, "exact two-run"))):
        assert not torch.equal(generated(pipe, 1.0), plain)
    assert [m.step for m in look.record.data.measurements if m.item == 0] == [0, 1, 2]


def wan_pipeline(transformer: WanTransformer3DModel, **more: Any) -> WanPipeline:
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    parts: dict[str, Any] = {"tokenizer": None, "text_encoder": None, "vae": None}
    pipe = WanPipeline(**parts, transformer=transformer, scheduler=scheduler, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generated(pipe: WanPipeline, guidance: float) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    positive, negative = (torch.randn(2, 8, 24, generator=generator) for _ in range(2))
    return pipe(
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        height=80,
        width=112,
        num_frames=9,
        num_inference_steps=3,
        guidance_scale=guidance,
        output_type="latent",
        generator=generator,
    ).frames


@pytest.fixture(scope="module")
def mochi() -> MochiTransformer3DModel:
    torch.manual_seed(0)
    model = MochiTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        num_layers=2,
        pooled_projection_dim=32,
        text_embed_dim=24,
    )
    return model.eval().requires_grad_(False)


def test_a_pipeline_may_compute_both_branches_in_one_batch(mochi: MochiTransformer3DModel) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    parts: dict[str, Any] = {"tokenizer": None, "text_encoder": None, "vae": None}
    pipe = MochiPipeline(**parts, transformer=mochi, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(2)
    positive, negative = (torch.randn(1, 8, 24, generator=generator) for _ in range(2))
    look = capture(layers="1", steps="all")
    with watching(pipe, look):
        pipe(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            prompt_attention_mask=torch.arange(8)[None] < 6,
            negative_prompt_attention_mask=torch.arange(8)[None] < 3,
            height=80,
            width=112,
            num_frames=13,
            num_inference_steps=3,
            output_type="latent",
        )
    found = look.record.data
    spans = [(m.step, m.branch, found.header_of(m).grid.text) for m in found.measurements]
    video = 3 * 5 * 7
    lengths = {"uncond": 3, "cond": 6}
    assert spans == [
        (step, branch, (video, video + lengths[branch]))
        for step in range(3)
        for branch in ("uncond", "cond")
    ]
    sigmas = found.header.sigmas
    assert sigmas[0] == 1.0 and sigmas[-1] == 0.0


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_found_among_rounded_timesteps(dtype: torch.dtype) -> None:
    scheduler = flow(50, shift=7.0)
    steps = Steps(scheduler, None)
    sample, found = torch.zeros(1), []
    for timestep in scheduler.timesteps:
        found.append(steps.schedule.step(steps.sigma(timestep.expand(2).to(dtype))))
        sample = scheduler.step(torch.zeros(1), timestep, sample).prev_sample
    assert found == list(range(50))


def test_noise_levels_fall_whatever_the_scheduler_counts() -> None:
    mochi = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    mochi.set_timesteps(sigmas=[1.0, 0.9, 0.5])
    assert Steps(mochi, None).schedule.sigmas == pytest.approx((1.0, 0.9, 0.5, 0.0), abs=1e-6)
    cog = CogVideoXDDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    cog.set_timesteps(5)
    sigmas = Steps(cog, None).schedule.sigmas
    assert list(sigmas) == sorted(sigmas, reverse=True) and len(sigmas) == 6
    assert sigmas[0] == pytest.approx(4518.8, rel=1e-3)  # pure noise, as in ComfyUI


def test_a_percent_is_a_share_of_the_steps() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.8, 0.4, 0.1])
    at = Steps(scheduler, None).schedule.percent_to_sigma
    assert [at(p) for p in (0.0, 0.25, 0.375, 1.0)] == pytest.approx([1.0, 0.8, 0.6, 0.0])


def test_the_script_of_the_readme_runs(tmp_path: Path) -> None:
    text = (REPO / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    run = [sys.executable, str(REPO / "tests" / "nodes" / "readme_pipeline.py"), "script.py"]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    subprocess.run(run, cwd=tmp_path, env=environment, check=True, timeout=300)
    record = load_record(tmp_path / "attention.safetensors")
    assert [(m.layer, m.step, m.branch) for m in record.measurements] == [
        (layer, 10, branch) for branch in ("cond", "uncond") for layer in (0, 12, 13)
    ]
