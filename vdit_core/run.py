"""A run: the live state of one sampling. Born from a program, it answers each attention call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor

from .attention import (
    ALWAYS_KEPT,
    KEPT_OF_CROSS,
    MORE_KEPT,
    PROBED,
    MapMeasures,
    TextMeasures,
    attend,
    finite,
    hiding_text,
    measure,
    probe,
    prompt_length,
)
from .continuing import check_joins, earlier_data, joined
from .edits.freeze import Freeze
from .edits.replay import Replay
from .freezing import Frozen
from .grid import TokenGrid
from .keeping import Keeper
from .operands import Operands
from .plan import UNTOUCHED, AttentionPlan
from .program import (
    Asker,
    Capture,
    Edit,
    Keep,
    Program,
    Spec,
    acted_on,
    check_blocks,
    check_probes,
    check_regions,
    check_sources,
    check_text,
    check_thresholds,
)
from .record import CrossMeasurement, Header, Measurement, RecordData, Turn
from .replaying import check_size, check_source, settled, with_guests
from .sites import Call, Evaluation, Excerpt, Layout, Site, in_runs
from .steps import Clock, Schedule
from .thinning import Thinned

VERBS: dict[type[Spec], str] = {Capture: "measured", Edit: "changed", Keep: "kept"}


Found = Measurement | CrossMeasurement


class Run:
    """Checks a program against the model and the sampler, then carries it out call by call."""

    def __init__(
        self,
        program: Program,
        layout: Layout,
        schedule: Schedule,
        batch: int,
        poll: Callable[[], None] = lambda: None,
        say: Callable[[Asker, str], None] = lambda asker, text: None,
        turn: Turn | None = None,
    ) -> None:
        self.layout, self.schedule, self.poll = layout, schedule, poll
        self.chosen = {spec: acted_on(spec, layout) for spec in program}
        self.steps = {
            s: s.steps.resolve(schedule.steps, "this sampler")
            for s in program
            if isinstance(s, Capture)
        }
        self.active = [s for s in program if self.chosen[s] and not self._is_neutral(s)]
        self.fired: dict[Spec, Counter[Site]] = {spec: Counter() for spec in self.active}
        self.branches: set[str] = set()
        self.measured: dict[Capture, list[tuple[Call, list[Found]]]] = {}
        self.earlier: dict[Capture, RecordData] = {}
        self.clock = Clock(schedule)
        self.ran: set[int] = set()  # evaluations in which the model was not skipped
        self.of_pairs = any(isinstance(s, Edit) and s.change.pairs for s in self.active)
        self.rehearsing = False  # a dense evaluation before the one that counts
        self.thinned = Thinned()
        self.frozen = Frozen(schedule)
        self.latent: tuple[int, ...] = ()
        self.keepers = {
            spec: Keeper(spec, self.chosen[spec], layout, schedule, partial(say, spec.asker))
            for spec in self.active
            if isinstance(spec, Keep)
        }
        self._suspects: list[tuple[Tensor, str]] = []
        for spec in self.active:
            self._check(spec, batch)
            if isinstance(spec, Capture) and (data := earlier_data(spec, program, turn)):
                self.earlier[spec] = data
                self._check_joins(spec, data.header.grid)
        check_text(tuple(self.active), layout)
        check_thresholds(tuple(self.active), layout)
        check_blocks(tuple(self.active), layout)
        check_probes(tuple(self.active), layout)
        check_regions(tuple(self.active), layout)
        check_sources(tuple(self.active), layout)
        for spec in program:
            if isinstance(spec, Capture):
                spec.record.begin(turn)
            if isinstance(spec, Keep):
                spec.source.empty()

    def check_latent(self, latent: tuple[int, ...]) -> None:
        """Check, before sampling, that the whole video [B, C, F, H, W] suits what was captured."""
        self.latent = latent
        for spec in self.active:
            if isinstance(spec, Edit):
                check_size(spec, latent)
        for capture in self.earlier:
            evaluation = Evaluation(latent, 0, {})
            tokens = 0  # how many there are beside the video is not asked here
            self._check_joins(capture, self.layout.grid(evaluation, tokens))

    def begin(self, evaluation: Evaluation) -> None:
        """Check what the model is given, before it computes anything."""
        self.layout.check(evaluation)

    def call(
        self,
        site: Site,
        branches: tuple[str, ...],
        items: tuple[int, ...],
        prompts: tuple[int, ...] = (),
        excerpt: Excerpt | None = None,
        guests: int = 0,
    ) -> Call:
        """Label one execution of a site. prompts: () for the first of each branch."""
        clock, prompts = self.clock, prompts or (0,) * len(items)
        self.ran.add(clock.newest)
        self.branches.update(branches)
        at = clock.step, clock.newest, clock.sigma
        return Call(site, *at, branches, items, prompts, excerpt, guests)

    def attend(self, call: Call, x: Operands) -> Tensor | None:
        """Measure and edit one call: the output [B, H, Lq, D], or None to leave it untouched."""
        if not self.rehearsing:
            for spec, keeper in self.keepers.items():
                self.fired[spec][call.site] += keeper.hear(call, x)
        original = x
        guested = self._sourced(call)
        self.frozen.hear([e for e in guested if isinstance(e.change, Freeze)], call, x)
        ready = [edit for edit in guested if self._ready(edit, call)]
        call, x = with_guests(ready, self.frozen, call, x)
        call, x, plan = settled(call, x, self._plan(call, x))
        given = x.mask
        if plan.text is not None:
            prompt = x.grid().text
            assert prompt is not None  # checked before sampling
            x = replace(x, mask=hiding_text(x.mask, prompt, plan.text, x.k))
            plan = replace(plan, text=None)
        if plan.video is not None:
            plan = plan.placed(x.grid().video)
        if plan.thinning is not None:
            plan = self.thinned.planned(plan, call, x.q, x.k, x.mask, x.scale, self.rehearsing)
        captures = [s for s in self.active if self._wants(s, call)]
        untouched = plan.empty and x is original
        if untouched and not captures:
            return None
        self._check_finite(call, x)
        for capture in captures:
            self.poll()
            self._measure(capture, call, plan, x, given)
        if untouched:
            return None
        self.poll()
        report = partial(self.thinned.hear, plan, call)
        qkv = x.q, x.k, x.v
        out = attend(*qkv, plan, dense=x.dense, mask=x.mask, scale=x.scale, report=report)
        return out[call.guests :]

    @property
    def needs_rehearsal(self) -> bool:
        """Whether each evaluation of the model must be preceded by a dense one."""
        return any(isinstance(s, Edit) and s.change.rehearses for s in self.active)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Within it the model runs without thresholds, which are looked up for the next time."""
        self.rehearsing = True
        try:
            yield
        finally:
            self.rehearsing = False

    def finish(self) -> None:
        """Seal the records of a sampling that ended well. Raises if something never happened."""
        self._raise_if_not_finite()
        found = {capture: self._settled(capture) for capture in self.measured}
        for spec in self.active:
            if missing := [s for s in self.chosen[spec] if not self.fired[spec][s]]:
                raise RuntimeError(self._never_fired(spec, missing))
        for capture, measured in found.items():
            capture.record.seal(self._sealed(capture, measured))
        for spec, keeper in self.keepers.items():
            spec.source.seal(keeper.header(self.clock.levels, self.latent))

    def abandon(self) -> None:
        """After a sampling that failed or was cancelled: leave no half of anything."""
        for spec in self.keepers:
            spec.source.empty()

    def reports(self) -> list[tuple[Asker, str]]:
        """One line for each node that asked: what it did."""
        lines: list[tuple[Asker, str]] = []
        for spec, sites in self.fired.items():
            layers = len({site.layer for site in sites})
            line = f"{VERBS[type(spec)]} {sites.total()} calls of {layers} layers"
            if skipped := self._skipped(spec):
                line += f"; the model did not run at {skipped} (step caches skip steps)"
            if isinstance(spec, Edit) and spec.change.field == "threshold":
                line += self.thinned.report(sites)
            if isinstance(spec, Capture) and spec in self.earlier:
                line += f"; its steps follow {self.earlier[spec].header.steps} of the record before"
            lines.append((spec.asker, line))
        return lines

    def _is_neutral(self, spec: Spec) -> bool:
        if isinstance(spec, Keep):
            return False
        return spec.change.neutral if isinstance(spec, Edit) else not self.steps[spec]

    def _check(self, spec: Spec, batch: int) -> None:
        name = spec.asker.name
        if isinstance(spec, Capture):
            self.measured[spec] = []
            return
        sigmas = self.schedule.sigmas[: self.schedule.steps]
        if not any(self.schedule.inside(spec.window, sigma) for sigma in sigmas):
            window = spec.window
            raise ValueError(
                f"{name}: none of the {len(sigmas)} steps falls between start_percent "
                f"{window.start_percent} and end_percent {window.end_percent}; widen the window"
            )
        if not isinstance(spec, Edit):
            return
        if isinstance(spec.change, Replay):
            chosen = {site.name: heads for site, heads in self.chosen[spec].items()}
            check_source(spec, self.layout, self.schedule, chosen)
        if isinstance(spec.change, Freeze):
            self.frozen.check(spec)
        if spec.change.pairs and batch % 2:
            raise ValueError(
                f"{name}: it needs a batch of pairs (source, target), but this latent has a batch "
                f"of {batch}; put VDiT Pair Latent before the sampler and VDiT Pair Prompts on its "
                "positive input"
            )

    def _plan(self, call: Call, x: Operands) -> AttentionPlan:
        plan = UNTOUCHED
        if self.of_pairs and call.site.kind == "joint" and x.prompts is not None:
            plan = plan.showing(x.prompts[:, None].expand(-1, call.site.heads))
        for spec in self.active:
            if isinstance(spec, Edit) and self._applies(spec, call) and self._ready(spec, call):
                chosen = self._chosen(spec, call)
                if bool(chosen.any()):
                    plan = spec.change.apply(plan, call, chosen)
                    self.fired[spec][call.site] += not self.rehearsing
        return plan

    def _applies(self, edit: Edit, call: Call) -> bool:
        return call.site in self.chosen[edit] and self.schedule.inside(edit.window, call.sigma)

    def _sourced(self, call: Call) -> list[Edit]:
        """Edits whose sources are no rows of the batch."""
        edits = [s for s in self.active if isinstance(s, Edit) and self._applies(s, call)]
        return [edit for edit in edits if isinstance(edit.change, Replay | Freeze)]

    def _ready(self, edit: Edit, call: Call) -> bool:
        return not isinstance(edit.change, Freeze) or self.frozen.ready(edit, call)

    def _chosen(self, edit: Edit, call: Call) -> Tensor:
        """Rows and heads an edit changes, [B, H] bool: of a pair only the target."""
        rows = call.rows(edit.branch)
        if edit.change.pairs:
            rows = rows & call.target_rows()
        heads = torch.zeros(call.site.heads, dtype=torch.bool)
        heads[list(self.chosen[edit][call.site])] = True
        return rows[:, None] & heads

    def _wants(self, spec: Spec, call: Call) -> TypeGuard[Capture]:
        if not isinstance(spec, Capture) or self.rehearsing:
            return False
        here = call.site in self.chosen[spec] and bool(self.clock.possible & {*self.steps[spec]})
        return here and bool(call.rows(spec.branch).any())

    def _measure(
        self,
        capture: Capture,
        call: Call,
        plan: AttentionPlan,
        x: Operands,
        given: Tensor | None,
    ) -> None:
        """given: the mask as the model made it, before edits hid anything."""
        rows: list[int] = call.rows(capture.branch).nonzero()[:, 0].tolist()
        texts = [self._text(capture, call, x, given, row) for row in rows]
        found: list[Found] = []
        for text in dict.fromkeys(texts):
            alike = [row for row, own in zip(rows, texts, strict=True) if own == text]
            found += self._measured(capture, call, plan, x, alike, text)
        self.measured[capture].append((call, found))

    def _text(
        self, capture: Capture, call: Call, x: Operands, given: Tensor | None, row: int
    ) -> tuple[int, int, int] | None:
        """Where a row's text keys begin and end, and how many are no padding; None if not asked."""
        if "text" not in capture.more:
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

    def _measured(
        self,
        capture: Capture,
        call: Call,
        plan: AttentionPlan,
        x: Operands,
        rows: list[int],
        text: tuple[int, int, int] | None,
    ) -> Sequence[Found]:
        """Measure some rows of a call, whose text is at the same place."""
        grid, site, heads = x.grid(), call.site, self.chosen[capture][call.site]
        wants = {*ALWAYS_KEPT, *(name for more in capture.more for name in MORE_KEPT.get(more, ()))}
        if site.kind == "cross":
            wants = {*KEPT_OF_CROSS}
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
            window=self._window(capture, grid),
            tau=capture.tau,
            rate=capture.rate,
            rows=rows,
            heads=torch.tensor(heads),
            mask=x.mask,
            scale=x.scale,
        )
        joint = site.kind != "cross"
        probed = self._probed(capture, plan, x, rows, torch.tensor(heads)) if joint else {}
        found: list[Found] = []
        for index, row in enumerate(rows):
            what = site.name, site.layer, call.step, call.evaluation, call.sigma
            whom = call.branches[row], call.items[row], heads
            where = call.prompts[row], call.excerpt, text[2] if text else None
            if joint:
                measures = MapMeasures.of(result, index, probed)
                found.append(Measurement(*what, *whom, measures, grid, *where))
            else:
                found.append(CrossMeasurement(*what, *whom, TextMeasures.of(result, index), *where))
        return found

    def _probed(
        self, capture: Capture, plan: AttentionPlan, x: Operands, rows: list[int], heads: Tensor
    ) -> dict[str, Tensor]:
        """What the call would do under other plans, by the fields of MapMeasures."""
        found: dict[str, Tensor] = {}
        for what in (switch for switch in capture.more if switch in PROBED):
            asked = partial(probe, what, x.q, x.k, x.v, plan, rows=rows, heads=heads)
            found |= asked(mask=x.mask, scale=x.scale, poll=self.poll)
        return found

    def _settled(self, capture: Capture) -> tuple[Found, ...]:
        """What was measured in the steps that were asked for, now that steps are known."""
        labels, found = self.clock.labels(), list[Found]()
        counts: Counter[tuple[object, ...]] = Counter()
        for call, measurements in self.measured[capture]:
            if (step := labels[call.evaluation][0]) not in self.steps[capture]:
                continue
            self.fired[capture][call.site] += 1
            for m in measurements:
                whom = m.site, step, m.branch, m.prompt, m.item, m.excerpt
                found.append(replace(m, step=step, evaluation=counts[whom]))
                counts[whom] += 1
        return tuple(found)

    def _sealed(self, capture: Capture, found: Sequence[Found]) -> RecordData:
        """The record of a capture, with that of the sampling before if it goes on with one."""
        measurements = [m for m in found if isinstance(m, Measurement)]
        cross = tuple(m for m in found if isinstance(m, CrossMeasurement))
        grids = [m.grid for m in measurements if m.grid is not None]
        most = max(grids, key=lambda grid: grid.video_tokens)  # regions and windows are smaller
        labelled = (replace(m, grid=None if m.grid == most else m.grid) for m in measurements)
        data = RecordData(self._header(capture, most), tuple(labelled), cross)
        before = self.earlier.get(capture)
        return data if before is None else joined(before, data)

    def _check_joins(self, capture: Capture, grid: TokenGrid) -> None:
        first, second = self.earlier[capture].header, self._header(capture, grid)
        check_joins(capture.asker.name, first, second)

    def _header(self, capture: Capture, grid: TokenGrid) -> Header:
        sites = self.layout.of_kind(frozenset({"self", "joint"}))
        return Header(
            self.layout.family,
            len(sites),
            max(site.heads for site in sites),
            grid,
            capture.map_size,
            self.schedule.sigmas,
            self._window(capture, grid),
            capture.tau,
            capture.rate,
        )

    def _window(self, capture: Capture, grid: TokenGrid) -> tuple[int, int] | None:
        """First and last frame the maps show; None for all of them."""
        if capture.frames is None:
            return None
        frames = capture.frames.resolve(grid.frames, "this latent")
        if not frames or frames[-1] - frames[0] >= len(frames):
            raise ValueError(
                f"frames: {capture.frames.text!r} must name one run of latent frames, such as 0 or "
                f"2-4, of 0 to {grid.frames - 1}"
            )
        return None if len(frames) == grid.frames else (frames[0], frames[-1])

    def _check_finite(self, call: Call, x: Operands) -> None:
        """Note NaN and inf in Q and K; on a GPU looked at only when the next step begins."""
        for name, tensor in (("Q", x.q), ("K", x.k)):
            where = f"{name} of {call.site} at step {call.step}"
            self._suspects.append((finite(tensor), where))
        if x.q.device.type == "cpu" or len(self._suspects) > 64:
            self._raise_if_not_finite()

    def _raise_if_not_finite(self) -> None:
        suspects, self._suspects = self._suspects, []
        for fine, where in suspects:
            if not bool(fine):
                raise ValueError(
                    f"{where} holds NaN or infinity; the model broke before this layer: check its "
                    "dtype (try bf16 or fp32) and the strength of earlier edits"
                )

    def _never_fired(self, spec: Spec, missing: Sequence[Site]) -> str:
        where = ", ".join(site.name for site in missing)
        seen = ", ".join(sorted(self.branches)) or "no"
        skipped = self._skipped(spec)
        ran = f" The model did not run at {skipped}." if skipped else ""
        return (
            f"{spec.asker.name}: nothing happened at {where}.{ran} The sampler made {seen} calls, "
            f"this node wants branch {spec.branch!r} (with cfg 1 there is no uncond call). If that "
            "is not it, another node replaces these layers or skips these steps (step caches do); "
            "take it out, or choose other layers or steps"
        )

    def _skipped(self, spec: Spec) -> str:
        """Words for those of a spec's steps at which the model was not evaluated; none: empty."""
        if isinstance(spec, Capture):
            wanted = [*self.steps[spec]]
        else:
            sigmas = enumerate(self.schedule.sigmas[: self.schedule.steps])
            wanted = [n for n, sigma in sigmas if self.schedule.inside(spec.window, sigma)]
        labels = self.clock.labels()
        ran = {labels[evaluation][0] for evaluation in self.ran}
        missing = [n for n in wanted if n not in ran]
        return f"step {in_runs(missing)}" if missing else ""
