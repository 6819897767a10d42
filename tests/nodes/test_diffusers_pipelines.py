"""The host for diffusers in its pipelines: branches, steps, and the script of the README."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    MochiPipeline,
    MochiTransformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import Tensor
from vdit_attention.tests.nodes.diffused import LAYERS, mochi_transformer, wan_transformer
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.sparsity import Sparsify
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.host.diffusers import capture, edit, watching
from vdit_attention.vdit_core.record import load_record

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def transformer() -> WanTransformer3DModel:
    return wan_transformer()


@pytest.fixture(scope="module")
def mochi() -> MochiTransformer3DModel:
    return mochi_transformer()


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
