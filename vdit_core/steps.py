"""Steps of the sampler: their noise levels, and whose step each evaluation of the model is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from .program import Window


@dataclass(frozen=True)
class Schedule:
    """The sampler's noise levels, one per step and the end, and how percents map to them.

    sampler: its name.
    """

    sigmas: tuple[float, ...]
    percent_to_sigma: Callable[[float], float]
    sampler: str = ""

    @property
    def steps(self) -> int:
        return max(0, len(self.sigmas) - 1)

    def step(self, sigma: float) -> int:
        """Index of the last noise level that is not below `sigma`."""
        slack = 1e-4 * max(1e-6, sigma)
        at_or_above = [i for i, s in enumerate(self.sigmas[: self.steps]) if s >= sigma - slack]
        return at_or_above[-1] if at_or_above else 0

    def inside(self, window: Window, sigma: float) -> bool:
        """Whether a noise level lies in the window; its end does not, except the very last."""
        high = self.percent_to_sigma(window.start_percent) if window.start_percent > 0 else math.inf
        low = self.percent_to_sigma(window.end_percent) if window.end_percent < 1 else -1.0
        return low < sigma <= high


class Clock:
    """Tells the evaluations of one sampling apart: of which step they are, and which of that step.

    A sampler calls back once in each step, after the step's first evaluation. Those that follow, up
    to the next one that is called back, are of the same step at whatever noise level: heun makes
    its second at the level with which the next step begins. So one knows only afterwards. Samplers
    that do not call back, or not so, as dpm_fast and dpm_adaptive, which have steps of their own,
    are labelled by their noise levels.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._sigmas: list[float] = []  # of each evaluation
        self._began: dict[int, int] = {}  # the step that an evaluation was the first of
        self._has_own_steps = False
        self.possible: set[int] = set()  # steps that the newest evaluation may turn out to be of

    @property
    def newest(self) -> int:
        """The evaluation that is being made, counted over the whole sampling."""
        return len(self._sigmas) - 1

    @property
    def sigma(self) -> float:
        """The noise level of the newest evaluation."""
        return self._sigmas[-1]

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise level of each evaluation so far."""
        return tuple(self._sigmas)

    @property
    def step(self) -> int:
        """The step that the newest evaluation is of by its noise level."""
        return self._schedule.step(self.sigma)

    def evaluate(self, sigma: float) -> None:
        """The model is going to be evaluated at this noise level."""
        self._sigmas.append(sigma)
        self.possible = {self.step, *self._beside_level()}

    def call_back(self, step: int) -> None:
        """The sampler says that the newest evaluation was the first of this step."""
        if self.newest in self._began:  # a step cache skipped this step's evaluations
            return
        self._began[self.newest] = step
        if not self._sigmas or step >= self._schedule.steps:
            self._has_own_steps = True
            return
        level = self._schedule.sigmas[step]
        if not level * (1 - 1e-3) <= self.sigma <= level * 1.5:  # some add noise before
            self._has_own_steps = True

    def labels(self) -> list[tuple[int, int]]:
        """The step of each evaluation, and which one of that step it is."""
        counts: Counter[int] = Counter()
        labels: list[tuple[int, int]] = []
        under_way: int | None = None
        for number, sigma in enumerate(self._sigmas):
            under_way = self._began.get(number, under_way)
            by_level = self._schedule.step(sigma)
            step = by_level if under_way is None or self._has_own_steps else under_way
            labels.append((step, counts[step]))
            counts[step] += 1
        return labels

    def _beside_level(self) -> set[int]:
        """The step under way and the next: both, unless earlier steps and the level tell which."""
        if not self._began or self._has_own_steps:
            return set()
        *earlier, (under_way, done) = self.labels()
        others = Counter(step for step, _ in earlier if step != under_way)
        most = max(others.values(), default=None)
        on_next_level = self.step > under_way
        steps: set[int] = set()
        if most is None or done < most or not on_next_level:
            steps.add(under_way)
        if most is None or done >= most or on_next_level:
            steps.add(under_way + 1)
        return steps
