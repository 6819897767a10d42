"""ComfyUI: carry a program in a model's options, run it around each sampling, label its calls."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ..edits.guide import Guide
from ..grid import TokenGrid
from ..models import find_layout
from ..operands import Operands
from ..program import Asker, Program, Spec, chosen_heads, conflicts
from ..record import Turn
from ..run import Run
from ..sites import Evaluation, Excerpt, Layout, Site
from ..steps import Schedule
from .conditionings import Conditionings, check_pair_prompts
from .features import check_features, excerpt_of, networks, without_compile
from .footage import Stand

PROGRAM_KEY = "vdit_program"
WRAPPER_KEY = "vdit_attention"
OVERRIDE_KEY = "optimized_attention_override"
PARAMETERS = ("q", "k", "v", "heads", "mask")  # of every attention function, in this order

Attention = Callable[..., Tensor]


def attach(model: ModelPatcher, spec: Spec) -> ModelPatcher:
    """Return a clone of the model that also does what `spec` says when it is sampled."""
    layout = layout_of(model)
    chosen_heads(spec.where, layout)  # raises now, on the node that asked
    program = program_of(model)
    for asker, message in conflicts(program, spec, layout):
        tell(asker, message)
    return with_program(model, (*program, spec))


def program_of(model: ModelPatcher) -> Program:
    """What the nodes before have asked for."""
    return model.model_options["transformer_options"].get(PROGRAM_KEY, ())


def with_program(model: ModelPatcher, program: Program) -> ModelPatcher:
    """Return a clone of the model that does this program, and no other, when it is sampled."""
    patched = model.clone()
    options = dict(patched.model_options["transformer_options"])
    options[PROGRAM_KEY] = program
    patched.model_options["transformer_options"] = options
    kind = WrappersMP.OUTER_SAMPLE
    if not patched.get_wrappers(kind, WRAPPER_KEY):
        patched.add_wrapper_with_key(kind, WRAPPER_KEY, sample_with_program)
    return patched


def layout_of(model: ModelPatcher) -> Layout:
    """The layout of the diffusion model inside a patcher."""
    return find_layout(model.model.diffusion_model)


def head_counts(model: ModelPatcher) -> tuple[int, ...]:
    """How many heads each layer has that a layer text may name."""
    return layout_of(model).heads


def layer_count(model: ModelPatcher) -> int:
    """How many layers a layer text may name."""
    return len(head_counts(model))


def sample_with_program(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
    """OUTER_SAMPLE wrapper: one run, exactly as long as this sampling."""
    guider, (noise, _, sampler, sigmas) = executor.class_obj, args[:4]
    program: Program = guider.model_options["transformer_options"][PROGRAM_KEY]
    sampling = guider.model_patcher.get_model_object("model_sampling")
    schedule = Schedule(tuple(sigmas.tolist()), sampling.percent_to_sigma, _name(sampler))
    poll = comfy.model_management.throw_exception_if_processing_interrupted
    where = layout_of(guider.model_patcher)
    run = Run(program, where, schedule, noise.shape[0], poll, tell, _turn())
    if not run.active:
        return executor(*args, **kwargs)
    run.check_latent(tuple(noise.shape))
    run.following.check_noise(bool(noise.any()))
    check_pair_prompts(run.active, guider)
    check_features(run.active, guider, sampler, tuple(noise.shape))
    callback = partial(_called_back, run, args[5])
    try:
        with installed(run, guider, noise) as compiled:
            out = executor(*args[:5], callback, *args[6:], **kwargs)
        run.finish()
    except BaseException:
        run.abandon()
        raise
    beside = _other_override(guider)
    if compiled:
        beside += "; Torch Compile is set aside: a compiled model cannot be watched or changed"
    for asker, line in run.reports():
        tell(asker, line + beside)
    return out


def _name(sampler: Any) -> str:
    """euler, heun …; of a sampler that another pack made, its class."""
    function = getattr(sampler, "sampler_function", None)
    return getattr(function, "__name__", type(sampler).__name__).removeprefix("sample_")


def _turn() -> Turn | None:
    """The place of this sampling in the lists that the running node works through."""
    context = get_executing_context()
    if context is None:
        return None
    return Turn((context.prompt_id, context.node_id), context.list_index or 0)


@contextmanager
def installed(run: Run, guider: Any, noise: Tensor) -> Iterator[bool]:
    """Put the run into the model's way, and take all of it off again however the sampling ends.

    noise: what the sampler begins with. Yields whether Torch Compile was set aside.
    """
    place, conditionings = _Place(), Conditionings(guider)
    original = guider.model_options
    with ExitStack() as stack:
        stack.callback(setattr, guider, "model_options", original)
        for layout in map(find_layout, networks(guider.model_patcher)):
            for owner, sites in layout.owners.items():
                enter = owner.register_forward_pre_hook(partial(place.enter, sites))
                leave = owner.register_forward_hook(place.leave, always_call=True)
                stack.callback(enter.remove)
                stack.callback(leave.remove)
            if run.of_pairs and (refiner := layout.refiner) is not None:
                refine = partial(_refine_alone, conditionings)
                stack.callback(refiner.register_forward_hook(refine, with_kwargs=True).remove)
        guider.model_options = comfy.model_patcher.create_model_options_clone(original)
        options = guider.model_options["transformer_options"]
        compiled = without_compile(options)
        previous = options.get(OVERRIDE_KEY)
        excerpt = partial(excerpt_of, original.get("context_handler"))
        options[OVERRIDE_KEY] = _override(run, place, previous, conditionings, excerpt)
        wrappers: list[tuple[str, Callable[..., Any]]] = [
            (WrappersMP.PREDICT_NOISE, partial(_predicted, run)),
            (WrappersMP.CALC_COND_BATCH, conditionings.numbered),
            (WrappersMP.APPLY_MODEL, partial(_evaluated, run, place)),
        ]
        if (footage := run.following.footage) is not None:
            stand = Stand(footage, noise, guider.model_patcher)
            wrappers.append((WrappersMP.PREDICT_NOISE, stand.predict))
        for kind, wrapper in wrappers:
            comfy.patcher_extension.add_wrapper_with_key(kind, WRAPPER_KEY, wrapper, options)
        if run.guides:
            after = guider.model_options.get("sampler_post_cfg_function", [])
            guider.model_options["sampler_post_cfg_function"] = [*after, partial(_guided, run)]
        yield compiled


def _called_back(run: Run, callback: Callable[..., None] | None, step: int, *more: Any) -> None:
    """The sampler's callback: tell the run before whoever else listens."""
    run.clock.call_back(step)
    if callback is not None:
        callback(step, *more)


def _predicted(run: Run, executor: Any, x: Tensor, sigma: Tensor, *args: Any, **named: Any) -> Any:
    """PREDICT_NOISE wrapper: note the noise level, once; on a GPU each reading waits for it."""
    run.clock.evaluate(float(sigma.flatten()[0]))
    return executor(x, sigma, *args, **named)


def _evaluated(run: Run, place: _Place, executor: Any, *args: Any, **named: Any) -> Tensor:
    """APPLY_MODEL wrapper: note what the model is given. For thresholds of the very evaluation they
    thin, the model runs twice, first dense."""
    noisy, prompt = args[0], args[3]
    tokens = 0 if prompt is None else prompt.shape[1]
    place.evaluation = Evaluation(tuple(noisy.shape), tokens, named)
    run.begin(place.evaluation)
    if not run.needs_rehearsal:
        return executor(*args, **named)
    with place.alone:  # one device at a time: rehearsing is a state of the whole run
        with run.rehearsal():
            executor(*args, **named)
        return executor(*args, **named)


def _guided(run: Run, args: dict[str, Any]) -> Tensor:
    """Post-CFG function: for each guide the model runs once more on cond, as core's PAG does it."""
    result = args["denoised"]
    for guide in run.guiding():
        assert isinstance(guide.change, Guide)
        inputs = args["model"], [args["cond"]], args["input"], args["sigma"], args["model_options"]
        with run.weakened(guide):
            (weak,) = comfy.samplers.calc_cond_batch(*inputs)
        result = result + guide.change.scale * (args["cond_denoised"] - weak)
    return result


def _refine_alone(
    conditionings: Conditionings,
    refiner: Any,
    args: tuple[Any, ...],
    named: dict[str, Any],
    refined: Tensor,
) -> Tensor | None:
    """Hook on a text refiner: each prompt of a pair is refined without its padding, as if alone."""
    text, times, *_ = args
    lengths = conditionings.prompts(named["transformer_options"], len(text))
    if lengths is None or not bool((lengths < text.shape[1]).any()):
        return None
    out = torch.zeros_like(refined)
    for row, length in enumerate(lengths.clamp(max=text.shape[1]).tolist()):
        alone = refiner.forward(text[row : row + 1, :length], times[row : row + 1], None, **named)
        out[row, :length] = alone[0]
    return out


def _other_override(guider: Any) -> str:
    """Words for the node when another pack's attention override works inside ours."""
    other = guider.model_options["transformer_options"].get(OVERRIDE_KEY)
    if other is None:
        return ""
    return f"; {getattr(other, '__module__', type(other).__module__)} does the dense attention"


class _Place:
    """Which attention module is running in this thread, and how often it has attended so far.

    alone: held by a thread while it changes the run (each device has a thread of its own).
    """

    def __init__(self) -> None:
        self._local, self.alone = threading.local(), threading.RLock()

    @property
    def evaluation(self) -> Evaluation:
        """What the model is evaluating in this thread."""
        return self._local.evaluation

    @evaluation.setter
    def evaluation(self, value: Evaluation) -> None:
        self._local.evaluation = value

    def enter(self, sites: tuple[Site, ...], *_: object) -> None:
        self._local.left = list(sites)

    def leave(self, *_: object) -> None:
        self._local.left = []

    def take(self) -> Site | None:
        """The site of the attention that is being called, or None outside the known modules."""
        left: list[Site] = getattr(self._local, "left", [])
        return left.pop(0) if left else None


def _override(
    run: Run,
    place: _Place,
    previous: Attention | None,
    conditionings: Conditionings,
    excerpt: Callable[[dict[str, Any]], Excerpt | None],
) -> Attention:
    """The attention override of this run, around whatever override was there before."""

    def override(function: Attention, *args: Any, **kwargs: Any) -> Tensor:
        inner = function if previous is None else partial(previous, function)
        options = kwargs.get("transformer_options")
        site = place.take()
        if site is None or options is None:
            return inner(*args, **kwargs)
        operands = _Operands(inner, args, kwargs, previous is None and _reads_scale(function))
        chunks = conditionings.labels(options)
        each = operands.batch // len(chunks)
        branches, prompts = zip(*(chunk for chunk in chunks for _ in range(each)), strict=True)
        items = tuple(range(each)) * len(chunks)
        grid = partial(run.layout.grid, place.evaluation)
        lengths = conditionings.prompts(options, operands.batch) if run.of_pairs else None
        with place.alone:
            call = run.call(site, branches, items, prompts, excerpt(options))
            out = run.attend(call, operands.read(grid, lengths))
        return inner(*args, **kwargs) if out is None else operands.written(out)

    return override


class _Operands:
    """The arguments of one attention call, in whatever layout the model passes them."""

    def __init__(
        self, inner: Attention, args: tuple[Any, ...], kwargs: dict[str, Any], takes_scale: bool
    ) -> None:
        named = dict(zip(PARAMETERS, args, strict=False))
        self.inner, self.extra_args = inner, args[len(PARAMETERS) :]
        self.kwargs = {k: v for k, v in kwargs.items() if k not in PARAMETERS}
        named |= {k: v for k, v in kwargs.items() if k in PARAMETERS}
        self.q, self.k, self.v, self.heads = (named[n] for n in PARAMETERS[:4])
        self.mask: Tensor | None = named.get("mask")
        self.split = bool(kwargs.get("skip_reshape"))  # already [B, H, L, D]
        self.keep_split = bool(kwargs.get("skip_output_reshape"))
        self.takes_scale = takes_scale
        self.batch: int = self.q.shape[0]

    def read(self, grid: Callable[[int], TokenGrid], prompts: Tensor | None) -> Operands:
        q = self._split(self.q)
        k, v = (self._split(x, q.shape[-1]) for x in (self.k, self.v))
        if k.shape[1] != q.shape[1]:  # grouped queries: each key head serves several
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        mask, scale = _four_axes(self.mask), self.kwargs.get("scale")
        return Operands(q, k, v, mask, scale, self.dense, partial(grid, q.shape[2]), prompts)

    def dense(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, temperature: float
    ) -> Tensor:
        """Ordinary attention by the model's own function, in the model's own layout."""
        kwargs = {key: x for key, x in self.kwargs.items() if key != "enable_gqa"}
        if temperature != 1 and self.takes_scale:
            kwargs["scale"] = kwargs.get("scale", q.shape[-1] ** -0.5) / temperature
        elif temperature != 1:
            q = q / temperature
        tensors = (q, k, v) if self.split else (_merged(x) for x in (q, k, v))
        out = self.inner(*tensors, q.shape[1], mask, *self.extra_args, **kwargs)
        return out if self.keep_split else self._split(out, v.shape[-1])

    def written(self, out: Tensor) -> Tensor:
        return out if self.keep_split else _merged(out)

    def _split(self, x: Tensor, width: int | None = None) -> Tensor:
        if x.ndim == 4:
            return x
        return x.unflatten(-1, (self.heads, -1) if width is None else (-1, width)).transpose(1, 2)


def _reads_scale(function: Attention) -> bool:
    """Whether an attention function of core looks at `scale`; some ignore it without a word."""
    constants = getattr(getattr(function, "__code__", None), "co_consts", ())
    return any(c == "scale" or (isinstance(c, tuple) and "scale" in c) for c in constants)


def _merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # [B, H, L, D] → [B, L, H·D]


def _four_axes(mask: Tensor | None) -> Tensor | None:
    """[Lq, Lk], [B, Lq, Lk] or [B, H, Lq, Lk] → four axes, as core reads them."""
    if mask is None or mask.ndim == 4:
        return mask
    return mask[None, None] if mask.ndim == 2 else mask[:, None]


def tell(asker: Asker, text: str) -> None:
    """Show a line on a node of the running graph, and in the log."""
    logging.info("%s: %s", asker.name, text)
    if asker.id is None:
        return
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and server.client_id is not None:
        server.send_progress_text(text, asker.id, server.client_id)
