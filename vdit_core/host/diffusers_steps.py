"""diffusers' schedulers: which step, and which noise level, a model call belongs to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..steps import Schedule

LEAST_ALPHA = 4.8973451890853435e-08  # ComfyUI's, for schedules whose first step is pure noise


class Steps:
    """The steps of one sampling: a timestep of the transformer → a noise level of the schedule."""

    def __init__(self, scheduler: Any | None, timestep: Any) -> None:
        """scheduler: with its timesteps set; without one, `timestep` is the only step there is."""
        self._scheduler = scheduler
        if scheduler is None:
            self._timesteps = torch.as_tensor(timestep).detach().double().cpu().amax().view(1)
            sigmas = [float(self._timesteps), 0.0]
        else:
            self._timesteps = _timesteps(scheduler)
            sigmas = _noise_levels(scheduler, self._timesteps)
            times: list[float] = self._timesteps.tolist()
            first = [i for i, time in enumerate(times) if time not in times[:i]]
            self._timesteps = self._timesteps[first]
            sigmas = [*(sigmas[i] for i in first), sigmas[-1]]
        self.schedule = Schedule(tuple(sigmas), self._at_percent)

    def sigma(self, timestep: Any) -> float:
        """The noise level of a model call. timestep: as the transformer gets it, any dtype."""
        given = torch.as_tensor(timestep).detach().cpu()
        # Of a timestep per token the largest counts: tokens of a given picture are at 0.
        value = given.max().double()
        # A pipeline may round timesteps to the model's dtype, after which two may be equal.
        distance = (self._timesteps.to(given.dtype).double() - value).abs()
        if float(distance.min()) > 0.01 * max(1.0, float(self._timesteps.abs().max())):
            raise ValueError(
                f"timestep: the transformer got {float(value):g}, which is no step of "
                f"{self._name()}; give the scheduler whose timesteps it gets (scheduler=…)"
            )
        nearest = (distance == distance.min()).nonzero()[:, 0].tolist()
        current: int | None = getattr(self._scheduler, "step_index", None)
        index: int = nearest[0] if current is None or current not in nearest else current
        return self.schedule.sigmas[index]

    def _at_percent(self, percent: float) -> float:
        """The noise level after a share of the steps, between two steps linear."""
        place = percent * self.schedule.steps
        step = min(int(place), self.schedule.steps - 1)
        above, below = self.schedule.sigmas[step : step + 2]
        return above + (below - above) * (place - step)

    def _name(self) -> str:
        if self._scheduler is None:
            return f"the first call (timestep {float(self._timesteps):g})"
        return type(self._scheduler).__name__


def _timesteps(scheduler: Any) -> Tensor:
    timesteps = getattr(scheduler, "timesteps", None)
    if timesteps is None or len(timesteps) == 0:
        raise ValueError(
            f"scheduler: {type(scheduler).__name__} has no timesteps; call its set_timesteps first"
        )
    return torch.as_tensor(timesteps).cpu()


def _noise_levels(scheduler: Any, timesteps: Tensor) -> list[float]:
    """One noise level for each timestep, falling, and the last of all."""
    if not hasattr(
        scheduler, "sigmas"
    ):  # a scheduler with a table of signal shares, one for each training step
        alphas = scheduler.alphas_cumprod[timesteps.long()].double().clamp(min=LEAST_ALPHA)
        return [*((1 - alphas) / alphas).sqrt().tolist(), 0.0]
    levels = torch.as_tensor(scheduler.sigmas).double().tolist()[: len(timesteps) + 1]
    if levels[0] < levels[-1]:  # Mochi counts the signal
        levels = [1 - level for level in levels]
    return levels if len(levels) > len(timesteps) else [*levels, 0.0]
