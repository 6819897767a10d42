"""ComfyUI: one sampling of a sweep is told on its node, kept as a file, and taken from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention as core_attention
import comfy.model_management
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..kept import Finished, load_finished, save_finished
from ..keys import Few, Unkeyed, key_of
from ..program import Asker, Edit, Program
from ..sources import Source
from ..sweep import Entry, acting_layers
from .comfy import PROGRAM_KEY, layout_of, tell, with_program

TICKET_KEY = "vdit_sweep"
_FORMAT = 1  # of what a key is made of; another number finds no file of before
_OWN = (PROGRAM_KEY, TICKET_KEY)  # of transformer_options, read in another way
_OF_GUIDER = ("model_patcher", "model_options", "original_conds", "conds", "inner_model")


@dataclass(frozen=True)
class Ticket:
    """Which sampling of a sweep this is. folder: of the kept ones, None to keep none."""

    asker: Asker
    label: str
    place: str
    folder: Path | None


def swept(
    model: ModelPatcher, entries: list[Entry], asker: Asker, folder: Path | None
) -> list[ModelPatcher]:
    """The model once for each entry, in a sampling that is told, and kept in the folder."""
    models: list[ModelPatcher] = []
    for n, entry in enumerate(entries, 1):
        patched = with_program(model, entry.program)
        options = patched.model_options["transformer_options"]
        options[TICKET_KEY] = Ticket(asker, entry.label, f"{n} of {len(entries)}", folder)
        kind = WrappersMP.OUTER_SAMPLE
        wrappers = patched.wrappers.get(kind, {})  # the outermost: what was kept runs nothing
        patched.wrappers[kind] = {TICKET_KEY: [sample_or_take], **wrappers}
        models.append(patched)
    return models


def sample_or_take(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
    """OUTER_SAMPLE wrapper: the latent that was kept of this very sampling, or a new one."""
    guider = executor.class_obj
    ticket: Ticket = guider.model_options["transformer_options"][TICKET_KEY]
    comfy.model_management.throw_exception_if_processing_interrupted()
    told, path, why = f"{ticket.place}: {ticket.label}", None, ""
    if ticket.folder is not None:
        try:
            path = ticket.folder / f"{_key(guider, args, kwargs)}.safetensors"
        except Unkeyed as problem:
            why = f"; not kept: {problem}"
    if path is not None and (found := load_finished(path)) is not None:
        tell(ticket.asker, f"{told}, taken from {path.parent.name}")
        return _taken(found, args)
    tell(ticket.asker, told + why)
    last = _Last(args[5])
    samples = executor(*args[:5], last, *args[6:], **kwargs)
    if path is not None:
        tell(ticket.asker, told + _keep(Finished(samples, *last.heard), path, ticket.label))
    return samples


def _keep(finished: Finished, path: Path, label: str) -> str:
    """What became of it, in words; a full disk must not cost the video."""
    try:
        save_finished(finished, path, label)
    except OSError as problem:
        return f"; not kept: {problem}"
    return f", kept in {path.parent.name}"


class _Last:
    """The sampler's callback: passes on what it hears, and holds the latest."""

    def __init__(self, callback: Callable[..., None] | None) -> None:
        self.callback, self.heard = callback, tuple[Tensor, ...]()

    def __call__(self, step: int, clean: Tensor, noisy: Tensor, *more: Any) -> None:
        self.heard = clean, noisy
        if self.callback is not None:
            self.callback(step, clean, noisy, *more)


def _taken(found: Finished, args: tuple[Any, ...]) -> Tensor:
    """What the sampling of before gave; its callback hears the last step once more."""
    noise, sigmas, callback = args[0], args[3], args[5]
    if callback is not None and found.clean is not None and found.noisy is not None:
        steps = len(sigmas) - 1
        callback(steps - 1, found.clean.to(noise.device), found.noisy.to(noise.device), steps)
    return found.samples.to(noise.device)


def _key(guider: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Of all that determines the latent. Raises Unkeyed, naming what cannot be read."""
    noise, latent, sampler, sigmas, mask, _, _, *seed = args
    patcher, options = guider.model_patcher, guider.model_options
    program: Program = options["transformer_options"].get(PROGRAM_KEY, ())
    for spec in program:
        if not isinstance(spec, Edit):  # it brings something back
            raise Unkeyed(f"{spec.asker.name} needs the sampling to run")
    inner = {k: v for k, v in options["transformer_options"].items() if k not in _OWN}
    others = {k: v for k, v in vars(guider).items() if k not in _OF_GUIDER}
    content = {
        "versions": (_FORMAT, torch.__version__, import_module("comfyui_version").__version__),
        "edits": _edits(program, patcher),
        "inputs": (noise, latent, sigmas, mask, seed, kwargs),
        "sampler": sampler,
        "guider": (type(guider), others),
        "prompts": guider.conds,
        "options": options | {"transformer_options": inner} | _windows(options),
        "model": _model(patcher),
        "attention": (core_attention.optimized_attention, patcher.load_device.type),
    }
    return key_of(content, refused=(ModelPatcher, BaseModel, Source))


def _windows(options: dict[str, Any]) -> dict[str, object]:
    """Context windows by their settings: the rest is left over from the sampling before."""
    handler = options.get("context_handler")
    if handler is None:
        return {}
    settings = {k: v for k, v in vars(handler).items() if not k.startswith("_")}
    return {"context_handler": (type(handler), settings)}


def _edits(program: Program, patcher: ModelPatcher) -> list[object]:
    """What the edits do in this model, whichever way they were written."""
    layout = layout_of(patcher)
    edits = [spec for spec in program if isinstance(spec, Edit)]
    return [
        (edit.change, edit.where.resolve(layout.heads), edit.window, edit.branch, edit.ranked)
        for edit in edits
        if acting_layers(edit, layout)
    ]


def _model(patcher: ModelPatcher) -> dict[str, object]:
    """The model as loaded, from before any patch is put into its weights, and the patches."""
    model = patcher.model
    before = patcher.backup | getattr(patcher, "backup_buffers", {})  # older ones have none
    network = model.diffusion_model
    found = (
        *network.named_parameters("diffusion_model"),
        *network.named_buffers("diffusion_model"),
    )
    weights = {
        name: getattr(before.get(name, x), "weight", before.get(name, x))
        for name, x in found
        if not name.startswith(tuple(patcher.object_patches))  # read below, in place or not yet
    }
    return {
        "classes": (type(model), type(model.diffusion_model), type(model.latent_format)),
        "config": model.model_config.unet_config,
        "types": (patcher.model_dtype(), model.manual_cast_dtype),
        "weights": Few(weights),
        "patches": Few((patcher.patches, patcher.hook_patches, patcher.weight_wrapper_patches)),
        "objects": patcher.object_patches,
        "sampling": patcher.get_model_object("model_sampling"),
        "injections": patcher.injections,
    }
