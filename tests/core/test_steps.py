"""Steps from noise levels, windows, and whose step each evaluation of the model is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from vdit_attention.vdit_core.program import Window
from vdit_attention.vdit_core.steps import Clock, Schedule

SIGMAS = (1.0, 0.9, 0.75, 0.5, 0.0)
LEVEL = dict(enumerate(SIGMAS))


def schedule(*sigmas: float) -> Schedule:
    return Schedule(sigmas or SIGMAS, lambda percent: 1 - percent)


def test_each_noise_level_of_the_schedule_is_its_step() -> None:
    assert [schedule().step(s) for s in SIGMAS[:-1]] == [0, 1, 2, 3]


def test_noise_between_two_levels_belongs_to_the_step_that_is_under_way() -> None:
    assert [schedule().step(s) for s in (0.95, 0.8, 0.7, 0.1, 1e-9, 0.0)] == [0, 1, 2, 3, 3, 3]


def test_rounding_does_not_move_a_step() -> None:
    for step, sigma in enumerate(SIGMAS[:-1]):
        for nearly in (sigma * (1 + 2e-5), sigma * (1 - 2e-5)):
            assert schedule().step(nearly) == step


def test_noise_above_the_schedule_is_step_0() -> None:
    assert schedule().step(1.5) == 0


def test_windows_that_meet_share_no_step_and_miss_none() -> None:
    for cut in (0.1, 0.25, 0.3, 0.5, 0.99):
        for sigma in (*SIGMAS[:-1], 0.6, 0.01, 0.0):
            first = schedule().inside(Window(0, cut), sigma)
            second = schedule().inside(Window(cut, 1), sigma)
            assert first != second


def test_the_whole_window_holds_any_noise() -> None:
    for sigma in (0.0, 1e-6, 1.0, 1.0001, 14.6):
        assert schedule().inside(Window(), sigma)


# What samplers do, step by step: the noise levels of its evaluations. `back`: the callback.
SAMPLERS = {
    "euler": [[LEVEL[i]] for i in range(4)],
    "heun": [[LEVEL[i], LEVEL[i + 1]] for i in range(3)] + [[0.5]],
    "heunpp2": [[1.0, 0.9, 0.75], [0.9, 0.75, 0.5], [0.75, 0.5], [0.5]],
    "dpm_2": [[1.0, 0.95], [0.9, 0.82], [0.75, 0.6], [0.5]],
    "dpmpp_2s_ancestral": [[1.0, 0.8], [0.9, 0.6], [0.75, 0.3], [0.5]],
    "sa_solver_pece": [[1.0], [0.9, 0.9], [0.75, 0.75], [0.5, 0.5]],
    "euler with noise added": [[1.1], [1.05], [0.95], [0.6]],
    "heun with noise added": [[1.1, 0.9], [1.05, 0.75], [0.95, 0.5], [0.6]],
}


def sampled(clock: Clock, steps: list[list[float]]) -> Iterator[tuple[int, set[int]]]:
    """Each evaluation as it is made: its true step, and those that the clock held possible."""
    for step, sigmas in enumerate(steps):
        for number, sigma in enumerate(sigmas):
            clock.evaluate(sigma)
            yield step, clock.possible
            if number == 0:
                clock.call_back(step)


@pytest.mark.parametrize("name", SAMPLERS)
def test_evaluations_are_of_the_step_that_was_called_back_last(name: str) -> None:
    clock, steps = Clock(schedule()), SAMPLERS[name]
    assert all(step in possible for step, possible in sampled(clock, steps))
    truth = [(step, n) for step, sigmas in enumerate(steps) for n in range(len(sigmas))]
    assert clock.labels() == truth


def test_once_a_step_is_over_its_like_are_told_apart_at_once() -> None:
    """Else every capture of one step would measure its neighbours in vain."""
    seen = [possible for _, possible in sampled(Clock(schedule()), SAMPLERS["euler"])]
    assert seen == [{0}, {0, 1}, {2}, {3}]
    dpm_2 = [possible for _, possible in sampled(Clock(schedule()), SAMPLERS["dpm_2"])]
    assert dpm_2[3:] == [{1}, {2}, {2}, {3}]


NOT_AS_USUAL = {
    "no callback": [1.0, 0.9, 0.9, 0.6],
    "before the evaluation": [-0, 1.0, -1, 0.9, 0.9, -2, 0.6],
    "after the whole step": [1.0, 0.9, -0, 0.9, 0.6],
    "steps of its own": [1.0, -0, 0.9, 0.9, -1, 0.6, -2],
    "more steps than there are": [1.0, -0, 0.9, -1, 0.9, -4, 0.6],
}


@pytest.mark.parametrize("name", NOT_AS_USUAL)
def test_a_sampler_that_calls_back_otherwise_is_labelled_by_noise_levels(name: str) -> None:
    clock = Clock(schedule())
    for event in NOT_AS_USUAL[name]:
        if event > 0:
            clock.evaluate(event)
            assert clock.step in clock.possible
        else:
            clock.call_back(int(-event))
    assert clock.labels() == [(0, 0), (1, 0), (1, 1), (2, 0)]
