"""How widely each layer and head of a record looks, and how much it puts out (2504.12027, Fig. 4).

The paper's entropy of a map and energy of its output, and for maps of video over all frames the
counterparts of its spatial and temporal attention: each query's weights within its own frame, and
those at its own place over the frames. That reading of the two parts is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .attention import MapMeasures, TextMeasures
from .grid import TokenGrid
from .ranking import Granularity, Numbers, Side, share_of
from .record import CrossMeasurement, Header, Measurement, RecordData
from .selection import Selection, write_heads, write_layers
from .sites import BRANCHES, in_runs

Read = Callable[[TokenGrid, MapMeasures | TextMeasures], Tensor]


@dataclass(frozen=True)
class Quantity:
    """One number per head. needs: the measure it is read from, [H]. switch: that captures it.

    read: [H] in `unit`. of_text: of the attention to the text alone. log: spans decades.
    relative: as a share of what all captured heads of the step have together, in percent.
    """

    title: str
    unit: str
    words: str
    needs: str
    switch: str
    read: Read
    of_text: bool = False
    log: bool = False
    relative: bool = False


def _plain(name: str, factor: float = 1.0) -> Read:
    return lambda grid, measures: factor * getattr(measures, name).double()


def _share(name: str, largest: Callable[[TokenGrid], int]) -> Read:
    """In percent of the largest entropy possible, the logarithm of the number of keys."""

    def read(grid: TokenGrid, measures: MapMeasures | TextMeasures) -> Tensor:
        return 100 * getattr(measures, name).double() / math.log(max(2, largest(grid)))

    return read


def _text_share(grid: TokenGrid, measures: MapMeasures | TextMeasures) -> Tensor:
    assert isinstance(measures, TextMeasures)
    keys = measures.text_mass.shape[-1]
    return 100 * measures.entropy.double() / math.log(max(2, keys))


_OWN_FRAME = "Of each video query's weights on the keys of its own frame"
_OWN_PLACE = "Of each video query's weights on the keys at its own place in all frames"
QUANTITIES: dict[str, Quantity] = {
    "entropy share": Quantity(
        "Entropy share",
        "%",
        "Mean row entropy as a share of log(number of keys): 100 % looks everywhere alike, 0 % at "
        "one token.",
        "entropy",
        "",
        _share("entropy", len),
    ),
    "entropy": Quantity(
        "Entropy", "nats", "Mean row entropy, −Σ p log p.", "entropy", "", _plain("entropy")
    ),
    "energy": Quantity(
        "Energy of the output",
        "Σ out²",
        "The sum of the squares of A·V, over all queries of a head.",
        "energy",
        "energy",
        _plain("energy"),
        log=True,
    ),
    "energy proportion": Quantity(
        "Share of the energy",
        "%",
        "A head's energy, Σ (A·V)², as a share of what all captured heads have at that step.",
        "energy",
        "energy",
        _plain("energy"),
        log=True,
        relative=True,
    ),
    "spatial entropy share": Quantity(
        "Spatial entropy share",
        "%",
        f"{_OWN_FRAME}, renormalised: entropy as a share of the largest possible.",
        "spatial_entropy",
        "energy",
        _share("spatial_entropy", lambda grid: grid.rows * grid.cols),
    ),
    "temporal entropy share": Quantity(
        "Temporal entropy share",
        "%",
        f"{_OWN_PLACE}, renormalised: entropy as a share of the largest possible.",
        "temporal_entropy",
        "energy",
        _share("temporal_entropy", lambda grid: grid.frames),
    ),
    "spatial mass": Quantity(
        "Mass within the own frame",
        "%",
        "How much of a video query's attention goes to the keys of its own frame.",
        "spatial_mass",
        "energy",
        _plain("spatial_mass", 100),
    ),
    "temporal mass": Quantity(
        "Mass at the own place",
        "%",
        "How much of a video query's attention goes to the keys at its own place, in all frames.",
        "temporal_mass",
        "energy",
        _plain("temporal_mass", 100),
    ),
    "text entropy share": Quantity(
        "Entropy share of the attention to the text",
        "%",
        "Mean row entropy of the cross-attention as a share of log(number of the text's keys, "
        "padding among them).",
        "entropy",
        "text",
        _text_share,
        of_text=True,
    ),
}


@dataclass(frozen=True)
class Levels:
    """A quantity of every captured head at every chosen step, mean of branches and videos.

    values: [layers, heads, steps] float64, NaN for what was not captured. calls: in words.
    """

    header: Header
    name: str
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    steps: tuple[int, ...]
    values: Tensor
    calls: str

    @property
    def quantity(self) -> Quantity:
        return QUANTITIES[self.name]

    @cached_property
    def by_head(self) -> Tensor:
        """Mean of the steps, [layers, heads]."""
        return self.values.nanmean(-1)

    @cached_property
    def by_layer(self) -> Tensor:
        """Mean of the heads and steps, [layers]."""
        return self.by_head.nanmean(-1)

    @cached_property
    def proportions(self) -> Tensor:
        """Each layer's share of the sum over the captured layers, [layers] in percent."""
        return 100 * self.by_layer / self.by_layer.nansum().clamp_min(1e-300)

    @property
    def numbers(self) -> Numbers:
        """The mean of the steps of each captured head, to be ranked."""
        numbers: dict[int, Mapping[int, float]] = {}
        for layer, values in zip(self.layers, self.by_head.tolist(), strict=True):
            known = {h: v for h, v in zip(self.heads, values, strict=True) if v == v}
            if known:
                numbers[layer] = known
        return numbers

    def share(
        self, share: float, side: Side, granularity: Granularity
    ) -> dict[int, tuple[int, ...]]:
        """The heads, by layer, of the top or the bottom share; see ranking.share_of."""
        chosen = share_of(self.numbers, share, side, granularity)
        every = tuple(range(self.header.heads))
        return dict.fromkeys(chosen, every) if granularity == "layers" else chosen

    def write(self, chosen: Mapping[int, Sequence[int]]) -> str:
        """Heads in the grammar of VDIT_HEADS."""
        return write_heads(chosen, (self.header.heads,) * self.header.layers)

    def write_layers(self, chosen: Mapping[int, Sequence[int]]) -> str:
        return write_layers(chosen.keys(), self.header.layers)


def levels_of(data: RecordData, name: str, steps: Selection, branch: str) -> Levels:
    """Raises ValueError for a quantity, steps or a branch that the record does not hold."""
    if name not in QUANTITIES:
        raise ValueError(f"quantity: got {name!r}, allowed are {', '.join(QUANTITIES)}")
    quantity = QUANTITIES[name]
    calls = _calls(data, quantity, steps, branch)
    layers, at = (tuple(sorted({getattr(m, of) for m in calls})) for of in ("layer", "step"))
    heads = tuple(sorted({head for m in calls for head in m.heads}))
    sums = torch.zeros(len(layers), len(heads), len(at), dtype=torch.float64)
    counts = torch.zeros_like(sums)
    for m in calls:
        grid = data.header.grid
        if isinstance(m, Measurement):
            grid = data.header_of(m).grid
        where = layers.index(m.layer), [heads.index(h) for h in m.heads], at.index(m.step)
        numbers = quantity.read(grid, m.measures)
        sums[where] += numbers.nan_to_num(0)
        counts[where] += numbers.isfinite()
    values = (sums / counts).where(counts > 0, math.nan)
    if quantity.relative:
        values = 100 * values / values.nansum((0, 1)).clamp_min(1e-300)
    return Levels(data.header, name, layers, heads, at, values, _words(calls))


def _calls(
    data: RecordData, quantity: Quantity, steps: Selection, branch: str
) -> Sequence[Measurement | CrossMeasurement]:
    if branch not in BRANCHES:
        raise ValueError(f"branch: got {branch!r}, allowed are {', '.join(BRANCHES)}")
    captured = data.cross if quantity.of_text else data.measurements
    if any(getattr(m.measures, quantity.needs) is None for m in captured) or not captured:
        raise ValueError(_not_captured(data, quantity))
    wanted = steps.resolve(data.header.steps, "this record's sampling")
    found = [m for m in captured if m.step in wanted and branch in ("both", m.branch)]
    if not found:
        raise ValueError(
            f"steps: nothing was captured at steps {steps.text!r} of branch {branch!r}; captured "
            f"were {_words(captured)}; choose among these, or widen the choice on VDiT Capture and "
            "sample again"
        )
    return found


def _not_captured(data: RecordData, quantity: Quantity) -> str:
    if not data.measurements:
        return "record: it holds no calls; choose layers and steps on VDiT Capture"
    if quantity.of_text:
        return (
            "quantity: the attention to the text alone was not captured; turn on text on VDiT "
            "Capture and sample again (in Mochi, HunyuanVideo and CogVideoX there is none: text is "
            "part of the map whose quantity is entropy share)"
        )
    return (
        f"quantity: {quantity.title.lower()} was not captured; turn on {quantity.switch} on VDiT "
        "Capture and sample again"
    )


def _words(calls: Sequence[Measurement | CrossMeasurement]) -> str:
    """Steps, branches and videos of some calls."""
    steps = sorted({m.step for m in calls})
    branches = " and ".join(sorted({m.branch for m in calls}))
    videos = len({m.item for m in calls})
    several = f", {videos} videos" if videos > 1 else ""
    return f"step{'s' * (len(steps) > 1)} {in_runs(steps)}, {branches}{several}"
