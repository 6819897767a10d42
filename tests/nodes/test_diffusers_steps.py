"""Which step a call of a diffusers pipeline is of, told by its scheduler."""

from __future__ import annotations

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, FlowMatchEulerDiscreteScheduler
from vdit_attention.tests.nodes.diffused import flow
from vdit_attention.vdit_core.host.diffusers_steps import Steps


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
