"""diffusers: capture and edit the attention of a transformer, in a pipeline or on its own.

look = capture(layers="0,12", steps="mid")
with watching(pipe, look, edit(Temperature(0.7), layers="3-5")):
    video = pipe("a red circle falling on a striped background").frames[0]
save_record(look.record.data, Path("attention.safetensors"))
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from inspect import signature
from typing import Any

from torch import nn

from ..edits import Change
from ..edits.footage import FollowFootage
from ..edits.guide import Guide
from ..program import Asker, Capture, Edit, Program, Spec, Window, acted_on, conflicts
from ..ranking import Ranked
from ..record import Record
from ..run import Run
from ..selection import parse_selection, parse_where
from ..sites import Evaluation, Layout, Site
from .diffusers_attention import Listener, ModelCall
from .diffusers_families import find_layout
from .diffusers_steps import Steps

ALWAYS = Window()


def capture(layers: str = "all", heads: str = "all", steps: str = "mid", **more: Any) -> Capture:
    """Ask for measurements, found in the spec's `record` later. more: other fields of `Capture`."""
    at = parse_selection(steps, "steps")
    return Capture(Asker("capture"), parse_where(layers, heads), at, Record(), **more)


def edit(
    change: Change,
    layers: str = "all",
    heads: str = "all",
    window: Window = ALWAYS,
    branch: str = "both",
    ranked: Ranked | None = None,
) -> Edit:
    """Ask for a change of chosen layers and heads. ranked: which of them, see `Ranked`."""
    where = parse_where(layers, heads)
    return Edit(Asker(type(change).__name__), change, where, window, branch, ranked)


@contextmanager
def watching(
    model: Any,
    *program: Spec,
    scheduler: Any | None = None,
    branches: Sequence[str] | None = None,
) -> Iterator[Watch]:
    """Carry out a program on the model calls of one sampling, and take all of it off again.

    model: a pipeline, or a transformer. scheduler: whose steps are meant. A pipeline has one; for a
    transformer without one there is a single step. branches: what a batch holds, in equal parts,
    such as ("uncond", "cond"). Left out, a pipeline that names its model calls is believed, and a
    lone transformer's calls are "cond".
    After a sampling that ended well, records are sealed, and a spec that never fired is an error.
    """
    watch = Watch(program, model, scheduler, branches)
    with watch.installed():
        yield watch
    watch.finish()


class Watch:
    """One sampling that is being watched. lines: what each spec did, once it has ended."""

    def __init__(
        self, program: Program, model: Any, scheduler: Any | None, branches: Sequence[str] | None
    ) -> None:
        self._program, self._told = program, tuple(branches or ())
        self._pipeline = None if isinstance(model, nn.Module) else model
        self._layouts = {network: find_layout(network) for network in _networks(model)}
        self._layout = next(iter(self._layouts.values()))
        self._scheduler = scheduler or getattr(self._pipeline, "scheduler", None)
        self._name: str | None = None  # what the pipeline calls the running model call
        self._listener = Listener()
        self._steps: Steps | None = None
        self._run: Run | None = None
        self._last_step = 0
        self._wanted: set[Site] = set()
        self.lines: list[str] = []
        for index, spec in enumerate(program):
            if isinstance(spec, Edit) and isinstance(spec.change, Guide):
                raise ValueError(
                    f"{spec.asker.name}: guidance is there in ComfyUI only; diffusers pipelines "
                    "have guidance of their own"
                )
            if isinstance(spec, Edit) and isinstance(spec.change, FollowFootage):
                raise ValueError(
                    f"{spec.asker.name}: a pipeline's latents are not in reach here, so footage "
                    "can be followed in ComfyUI only; leave it out"
                )
            self._wanted |= acted_on(spec, self._layout).keys()  # raises now if it must
            for asker, message in conflicts(program[:index], spec, self._layout):
                self._tell(asker, message)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put the program into the model's way, and take all of it off again."""
        with ExitStack() as stack:
            for network, layout in self._layouts.items():
                begin = partial(self._begin, layout)
                before = network.register_forward_pre_hook(begin, with_kwargs=True)
                after = network.register_forward_hook(self._end, always_call=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
                owners = {m: s for m, s in layout.owners.items() if self._wanted & set(s)}
                stack.enter_context(self._listener.installed(owners))
                stack.enter_context(self._hearing_names(network))
            yield

    def finish(self) -> None:
        """Seal the records of a sampling that ended well, and say what each spec did."""
        if self._run is None:
            raise RuntimeError(
                "watching: the transformer was not called; call the pipeline inside the with block"
            )
        self._run.finish()
        for asker, line in self._run.reports():
            self._tell(asker, line)

    def _begin(
        self, layout: Layout, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Forward pre-hook of a transformer: label the evaluation that begins."""
        given = signature(type(network).forward).bind(network, *args, **kwargs).arguments
        rows = given["hidden_states"].shape[0]
        chunks = self._chunks(rows)
        items = rows // len(chunks)
        if self._steps is None or self._run is None:
            self._steps = Steps(self._scheduler, given["timestep"])
            self._run = Run(self._program, self._layout, self._steps.schedule, items)
        run, sigma = self._run, self._steps.sigma(given["timestep"])
        if not run.active:
            return
        self._check_order(run.schedule.step(sigma))
        if run.needs_rehearsal and not run.rehearsing:
            with run.rehearsal():
                network(*args, **kwargs)
        run.clock.evaluate(sigma)
        branches = tuple(branch for branch in chunks for _ in range(items))
        latent, prompt = given["hidden_states"].shape, given["encoder_hidden_states"].shape[1]
        evaluation = Evaluation(tuple(latent), prompt, given)
        each = tuple(range(items)) * len(chunks)
        self._listener.call = ModelCall(run, layout, evaluation, branches, each)

    def _end(self, *_: object) -> None:
        self._listener.call = None

    def _chunks(self, rows: int) -> tuple[str, ...]:
        """The branch of each equal part of the batch."""
        chunks = self._told or self._named_chunks()
        if rows % len(chunks):
            raise ValueError(
                f"branches: a batch of {rows} cannot hold {', '.join(chunks)} in equal parts; "
                "say what it holds with branches=(…)"
            )
        return chunks

    def _named_chunks(self) -> tuple[str, ...]:
        if self._name in ("cond", "uncond"):
            return (self._name,)
        if self._pipeline is None and self._name is None:
            return ("cond",)
        if self._name != "cond_uncond" or self._pipeline is None:
            raise ValueError(
                "branches: nobody says which prompts this model call computes; say what a batch "
                'holds with branches=("cond",), or ("uncond", "cond") with guidance'
            )
        # Set for good: with dynamic guidance the property below wavers.
        guided = self._pipeline.do_classifier_free_guidance
        self._told = ("uncond", "cond") if guided else ("cond",)  # the order of all pipelines
        return self._told

    def _check_order(self, step: int) -> None:
        if step < self._last_step:
            raise ValueError(
                f"watching: step {step} came after step {self._last_step}, as if a second sampling "
                "had begun; use one with block for each"
            )
        self._last_step = step

    def _tell(self, asker: Asker, text: str) -> None:
        self.lines.append(f"{asker.name}: {text}")
        logging.getLogger(__name__).info("%s: %s", asker.name, text)

    @contextmanager
    def _hearing_names(self, network: Any) -> Iterator[None]:
        """Note the names pipelines give to model calls, for their caches: "cond" and "uncond"."""
        original: Callable[..., AbstractContextManager[None]] = network.cache_context
        own = vars(network).get("cache_context")

        @contextmanager
        def cache_context(name: str, **kwargs: Any) -> Iterator[None]:
            with original(name, **kwargs):
                before, self._name = self._name, name
                try:
                    yield
                finally:
                    self._name = before

        network.cache_context = cache_context
        try:
            yield
        finally:
            del network.cache_context
            if own is not None:
                network.cache_context = own


def _networks(model: Any) -> list[nn.Module]:
    """The transformer, or those of a pipeline: some have one for the late steps."""
    if isinstance(model, nn.Module):
        return [model]
    parts = (getattr(model, name, None) for name in ("transformer", "transformer_2"))
    if networks := [part for part in parts if part is not None]:
        return networks
    raise ValueError(f"model: {type(model).__name__} is neither a transformer nor has one")
