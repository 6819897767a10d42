"""Recording: what one node captures of a sampling, from single calls to a sealed record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .attention import (
    ALWAYS_KEPT,
    ALWAYS_KEPT_OF_CROSS,
    MORE_KEPT,
    PROBED,
    MapMeasures,
    TextMeasures,
    measure,
    measure_parts,
    measure_words,
    probe,
    prompt_length,
)
from .continuing import check_joins, joined
from .grid import TokenGrid
from .operands import Operands
from .plan import AttentionPlan
from .program import OF_TEXT, Capture
from .record import CrossMeasurement, Header, Measurement, RecordData
from .sites import Call, Layout, Site
from .steps import Schedule

Found = Measurement | CrossMeasurement


class Recorder:
    """What one capture measures in one run. earlier: a record that it goes on with."""

    def __init__(
        self,
        capture: Capture,
        chosen: Mapping[Site, tuple[int, ...]],
        layout: Layout,
        schedule: Schedule,
        poll: Callable[[], None],
    ) -> None:
        self.capture, self.chosen, self.layout, self.schedule = capture, chosen, layout, schedule
        self.steps = capture.steps.resolve(schedule.steps, "this sampler")
        self.earlier: RecordData | None = None
        self._poll = poll
        self._measured: list[tuple[Call, list[Found]]] = []

    def check_joins(self, grid: TokenGrid) -> None:
        """Raises ValueError unless a video of this grid goes on where the earlier record ended."""
        if self.earlier is not None:
            name = self.capture.asker.name
            check_joins(name, self.earlier.header, self._header(grid))

    def wants(self, call: Call, possible: set[int]) -> bool:
        """Whether a call may have to be recorded. possible: the steps that it may turn out of."""
        here = call.site in self.chosen and bool(possible & {*self.steps})
        return here and bool(call.rows(self.capture.branch).any())

    def measure(self, call: Call, plan: AttentionPlan, x: Operands, given: Tensor | None) -> None:
        """Measure one call. given: the mask as the model made it, before edits hid anything."""
        rows: list[int] = call.rows(self.capture.branch).nonzero()[:, 0].tolist()
        texts = [self._text(call, x, given, row) for row in rows]
        found: list[Found] = []
        for text in dict.fromkeys(texts):
            alike = [row for row, own in zip(rows, texts, strict=True) if own == text]
            found += self._of_rows(call, plan, x, alike, text)
        self._measured.append((call, found))

    def _text(
        self, call: Call, x: Operands, given: Tensor | None, row: int
    ) -> tuple[int, int, int] | None:
        """Where a row's text keys begin and end, and how many are no padding; None if not asked."""
        if not OF_TEXT & {*self.capture.more}:
            return None
        if call.site.kind == "cross":
            every = slice(0, x.k.shape[2])
            return 0, every.stop, prompt_length(x.k, given, every, row, pads_alike=True)
        if (text := x.grid().text) is None:
            return None
        tokens = prompt_length(x.k, given, slice(*text), row, pads_alike=False)
        if x.prompts is not None:
            tokens = min(tokens, int(x.prompts[row]))
        return (text[0], text[0] + tokens, tokens) if tokens else None

    def _of_rows(
        self,
        call: Call,
        plan: AttentionPlan,
        x: Operands,
        rows: list[int],
        text: tuple[int, int, int] | None,
    ) -> Sequence[Found]:
        """Measure some rows of a call, whose text is at the same place."""
        grid, site, heads = x.grid(), call.site, self.chosen[call.site]
        capture = self.capture
        wants = {*ALWAYS_KEPT, *(name for more in capture.more for name in MORE_KEPT.get(more, ()))}
        if site.kind == "cross":
            wants = {*ALWAYS_KEPT_OF_CROSS}
        elif text is None:
            wants -= {*MORE_KEPT["text"]}
        result = measure(
            x.q,
            x.k,
            x.v,
            wants=wants,
            grid=grid,
            spans={"text": slice(*text[:2])} if text else None,
            plan=plan,
            map_size=capture.map_size,
            window=self._window(grid),
            tau=capture.tau,
            rate=capture.rate,
            rows=rows,
            heads=torch.tensor(heads),
            mask=x.mask,
            scale=x.scale,
        )
        further = self._further(site, plan, x, rows, text)
        found: list[Found] = []
        for index, row in enumerate(rows):
            what = site.name, site.layer, call.step, call.evaluation, call.sigma
            whom = call.branches[row], call.items[row], heads
            where = call.prompts[row], call.excerpt, text[2] if text else None
            if site.kind == "cross":
                told = TextMeasures.of(result, index, further)
                found.append(CrossMeasurement(*what, *whom, told, *where))
            else:
                measures = MapMeasures.of(result, index, further)
                found.append(Measurement(*what, *whom, measures, grid, *where))
        return found

    def _further(
        self,
        site: Site,
        plan: AttentionPlan,
        x: Operands,
        rows: list[int],
        text: tuple[int, int, int] | None,
    ) -> dict[str, Tensor]:
        """What takes a pass of its own, by the fields of a record's measures."""
        asked, found = self.capture.more, dict[str, Tensor]()
        how: dict[str, Any] = {"rows": rows, "heads": torch.tensor(self.chosen[site])}
        how |= {"mask": x.mask, "scale": x.scale, "poll": self._poll}
        if site.kind != "cross":
            for what in (switch for switch in asked if switch in PROBED):
                found |= probe(what, x.q, x.k, x.v, plan, **how)
            if "energy" in asked:
                found |= measure_parts(x.q, x.k, plan, grid=x.grid(), **how)
        if "words" in asked and text is not None:
            words = slice(text[0], text[0] + text[2])
            found |= measure_words(x.q, x.k, plan, grid=x.grid(), words=words, **how)
        return found

    def settled(self, labels: Sequence[tuple[int, int]]) -> tuple[list[Found], Counter[Site]]:
        """What was measured in the steps that were asked for, and in how many calls of each site.

        labels: step and place in it of each evaluation, which are known when a sampling ends.
        """
        found, calls = list[Found](), Counter[Site]()
        counts: Counter[tuple[object, ...]] = Counter()
        for call, measurements in self._measured:
            if (step := labels[call.evaluation][0]) not in self.steps:
                continue
            calls[call.site] += 1
            for m in measurements:
                whom = m.site, step, m.branch, m.prompt, m.item, m.excerpt
                found.append(replace(m, step=step, evaluation=counts[whom]))
                counts[whom] += 1
        return found, calls

    def record(self, found: Sequence[Found]) -> RecordData:
        """The record of a capture, with that of the sampling before if it goes on with one."""
        measurements = [m for m in found if isinstance(m, Measurement)]
        cross = tuple(m for m in found if isinstance(m, CrossMeasurement))
        grids = [m.grid for m in measurements if m.grid is not None]
        most = max(grids, key=lambda grid: grid.video_tokens)  # regions and windows are smaller
        labelled = (replace(m, grid=None if m.grid == most else m.grid) for m in measurements)
        data = RecordData(self._header(most), tuple(labelled), cross)
        return data if self.earlier is None else joined(self.earlier, data)

    def _header(self, grid: TokenGrid) -> Header:
        capture = self.capture
        return Header(
            self.layout.family,
            self.layout.layers,
            max(self.layout.heads),
            grid,
            capture.map_size,
            self.schedule.sigmas,
            self._window(grid),
            capture.tau,
            capture.rate,
        )

    def _window(self, grid: TokenGrid) -> tuple[int, int] | None:
        """First and last frame the maps show; None for all of them."""
        if self.capture.frames is None:
            return None
        frames = self.capture.frames.resolve(grid.frames, "this latent")
        if not frames or frames[-1] - frames[0] >= len(frames):
            raise ValueError(
                f"frames: {self.capture.frames.text!r} must name one run of latent frames, such as "
                f"0 or 2-4, of 0 to {grid.frames - 1}"
            )
        return None if len(frames) == grid.frames else (frames[0], frames[-1])
