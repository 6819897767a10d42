"""A run: the live state of one sampling. Born from a program, it answers each attention call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from .attention import attend, finite, hiding_text
from .choosing import Choosing
from .continuing import earlier_data
from .edits import Change
from .edits.flatten import Flatten
from .edits.freeze import Freeze
from .edits.guide import Guide
from .edits.replay import Replay
from .flattening import Flattened
from .following import Following
from .freezing import Frozen
from .keeping import Keeper
from .operands import Operands
from .plan import UNTOUCHED, AttentionPlan
from .program import Asker, Capture, Edit, Keep, Program, Spec, acted_on, check_together
from .record import Turn
from .recording import Found, Recorder
from .replaying import check_size, check_source, followed, guests_of
from .sites import Call, Evaluation, Excerpt, Layout, Site
from .steps import Clock, Schedule
from .telling import what_it_did, why_it_did_nothing
from .thinning import Thinned


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
        self.recorders = {
            spec: Recorder(spec, self.chosen[spec], layout, schedule, poll)
            for spec in program
            if isinstance(spec, Capture)
        }
        self.active = [s for s in program if self.chosen[s] and not self._is_neutral(s)]
        self.fired: dict[Spec, Counter[Site]] = {spec: Counter() for spec in self.active}
        self.branches: set[str] = set()
        self.clock = Clock(schedule)
        self.ran: set[int] = set()  # evaluations in which the model was not skipped
        self.of_pairs = any(edit.change.pairs for edit in self._edits)
        self.rehearsing = False  # a dense evaluation before the one that counts
        self.weak: Edit | None = None  # an evaluation after it, in which this guide acts
        self.thinned = Thinned()
        self.frozen, self.following = Frozen(schedule), Following(self.active)
        self.flattened = Flattened(poll)
        self.choosing = Choosing(
            {edit: self.chosen[edit] for edit in self._edits if edit.ranked}, schedule
        )
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
                self.recorders[spec].earlier = data
                self.recorders[spec].check_joins(data.header.grid)
        check_together(tuple(self.active), layout)
        for spec in program:
            if isinstance(spec, Capture):
                spec.record.begin(turn)
            if isinstance(spec, Keep):
                spec.source.empty()

    def check_latent(self, latent: tuple[int, ...]) -> None:
        """Check, before sampling, that the whole video [B, C, F, H, W] suits what was captured."""
        self.latent = latent
        for edit in self._edits:
            check_size(edit, latent)
        self.following.check_latent(latent)
        for recorder in self.recorders.values():
            if recorder.earlier is not None:
                tokens = 0  # how many there are beside the video is not asked here
                recorder.check_joins(self.layout.grid(Evaluation(latent, 0, {}), tokens))

    def begin(self, evaluation: Evaluation) -> None:
        """Check what the model is given, before it computes anything."""
        self.layout.check(evaluation)
        self.following.check_evaluation(evaluation)

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
        if not self.aside:
            for spec, keeper in self.keepers.items():
                self.fired[spec][call.site] += keeper.hear(call, x)
            if self.choosing.pending:
                self.choosing.hear(call, self._unpadded(call, x))
        self._flatten(call, x)
        original = x
        guested = self._sourced(call)
        self.frozen.hear([e for e in guested if isinstance(e.change, Freeze)], call, x)
        ready = [edit for edit in guested if self._ready(edit, call)]
        guests = guests_of(ready, self.frozen, call, x)
        call, x, plan = followed(guests, call, x, self._plan)
        given = x.mask
        if plan.text is not None:
            prompt = x.grid().text
            assert prompt is not None  # checked before sampling
            x = replace(x, mask=hiding_text(x.mask, prompt, plan.text, x.k))
            plan = replace(plan, text=None)
        if plan.video is not None:
            plan = plan.placed(x.grid().video)
        if plan.blend is not None:
            plan = self.following.placed(plan, x.grid())
        if plan.thinning is not None:
            plan = self.thinned.planned(plan, call, x.q, x.k, x.mask, x.scale, self.rehearsing)
        wanting = [r for r in self._recording() if r.wants(call, self.clock.possible)]
        untouched = plan.empty and x is original
        if untouched and not wanting:
            return None
        self._check_finite(call, x)
        for recorder in wanting:
            self.poll()
            recorder.measure(call, plan, x, given)
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
        return any(edit.change.rehearses for edit in self._edits)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Within it the model runs without thresholds, which are looked up for the next time."""
        self.rehearsing = True
        try:
            yield
        finally:
            self.rehearsing = False

    @property
    def guides(self) -> list[Edit]:
        """Those that ask for weak evaluations of the model."""
        return [edit for edit in self._edits if isinstance(edit.change, Guide)]

    def guiding(self) -> list[Edit]:
        """Those that ask for one after the newest evaluation."""
        level = self.clock.sigma
        ready = (edit for edit in self.guides if self.acting(edit))
        return [edit for edit in ready if self.schedule.inside(edit.window, level)]

    @contextmanager
    def weakened(self, guide: Edit) -> Iterator[None]:
        """Within it the model runs once more, and the guide's change acts too."""
        self.weak = guide
        try:
            yield
        finally:
            self.weak = None

    @property
    def aside(self) -> bool:
        """Whether the model runs beside the evaluation that counts: nobody is to take note."""
        return self.rehearsing or self.weak is not None

    def finish(self) -> None:
        """Seal the records of a sampling that ended well. Raises if something never happened."""
        self._raise_if_not_finite()
        labels, found = self.clock.labels(), dict[Recorder, Sequence[Found]]()
        for recorder in self.recorders.values():
            if recorder.capture in self.fired:
                found[recorder], calls = recorder.settled(labels)
                self.fired[recorder.capture] += calls
        for spec in self.active:
            wanted = self.acting(spec) or self.chosen[spec]
            if missing := [site for site in wanted if not self.fired[spec][site]]:
                raise RuntimeError(why_it_did_nothing(self, spec, missing))
        for recorder, measured in found.items():
            recorder.capture.record.seal(recorder.record(measured))
        for spec, keeper in self.keepers.items():
            spec.source.seal(keeper.header(self.clock.levels, self.latent))

    def abandon(self) -> None:
        """After a sampling that failed or was cancelled: leave no half of anything."""
        for spec in self.keepers:
            spec.source.empty()

    def reports(self) -> list[tuple[Asker, str]]:
        """What there is to say to each node that asked: what it did."""
        return [(spec.asker, what_it_did(self, spec)) for spec in self.fired]

    def _is_neutral(self, spec: Spec) -> bool:
        if isinstance(spec, Keep):
            return False
        return spec.neutral if isinstance(spec, Edit) else not self.recorders[spec].steps

    def _check(self, spec: Spec, batch: int) -> None:
        name = spec.asker.name
        if isinstance(spec, Capture):
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
        if spec.ranked is not None:
            self.choosing.check(spec)
        if spec.change.pairs and batch % 2:
            raise ValueError(
                f"{name}: it needs a batch of pairs (source, target), but this latent has a batch "
                f"of {batch}; put VDiT Pair Latent before the sampler and VDiT Pair Prompts on its "
                "positive input"
            )

    def _plan(self, call: Call, x: Operands) -> AttentionPlan:
        plan, others = UNTOUCHED, [e for e in self._edits if not isinstance(e.change, Guide)]
        if self.of_pairs and call.site.kind == "joint" and x.prompts is not None:
            plan = plan.showing(x.prompts[:, None].expand(-1, call.site.heads))
        for edit in others if self.weak is None else (*others, self.weak):
            if self._applies(edit, call) and self._ready(edit, call):
                chosen = self._chosen(edit, call)
                if bool(chosen.any()):
                    plan = self._change(edit, call).apply(plan, call, chosen)
                    counts = not self.rehearsing and self.weak in (None, edit)
                    self.fired[edit][call.site] += counts
        return plan

    @property
    def _edits(self) -> list[Edit]:
        return [spec for spec in self.active if isinstance(spec, Edit)]

    def _change(self, edit: Edit, call: Call) -> Change:
        flattens = isinstance(edit.change, Flatten)
        return self.flattened.solved(edit, call) if flattens else edit.change

    def _flatten(self, call: Call, x: Operands) -> None:
        """Find the temperatures of edits that want some, by the model's own map."""
        edits = [e for e in self._edits if isinstance(e.change, Flatten) and self._applies(e, call)]
        if edits:
            self.flattened.hear(edits, call, self._unpadded(call, x))

    def _applies(self, edit: Edit, call: Call) -> bool:
        return call.site in self.acting(edit) and self.schedule.inside(edit.window, call.sigma)

    def _sourced(self, call: Call) -> list[Edit]:
        """Edits whose sources are no rows of the batch."""
        edits = [edit for edit in self._edits if isinstance(edit.change, Replay | Freeze)]
        return [edit for edit in edits if self._applies(edit, call)]

    def _ready(self, edit: Edit, call: Call) -> bool:
        return not isinstance(edit.change, Freeze) or self.frozen.ready(edit, call)

    def _chosen(self, edit: Edit, call: Call) -> Tensor:
        """Rows and heads an edit changes, [B, H] bool: of a pair only the target."""
        rows = call.rows(edit.branch)
        if edit.change.pairs:
            rows = rows & call.target_rows()
        heads = torch.zeros(call.site.heads, dtype=torch.bool)
        heads[list(self.acting(edit)[call.site])] = True
        return rows[:, None] & heads

    def acting(self, spec: Spec) -> Mapping[Site, tuple[int, ...]]:
        """Where a spec acts: what it names, or what the run has chosen of it by now."""
        if isinstance(spec, Edit) and spec.ranked is not None:
            return self.choosing.heads(spec)
        return self.chosen[spec]

    def _unpadded(self, call: Call, x: Operands) -> Operands:
        """Without the padding that made the prompts of a pair equally long."""
        if not self.of_pairs or call.site.kind != "joint" or x.prompts is None:
            return x
        prompt = x.grid().text
        assert prompt is not None  # pairs with prompts of their own in a joint layer have text
        return replace(x, mask=hiding_text(x.mask, prompt, x.prompts[:, None], x.k))

    def _recording(self) -> list[Recorder]:
        """Of captures that are active now."""
        if self.aside:
            return []
        return [self.recorders[s] for s in self.active if isinstance(s, Capture)]

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
