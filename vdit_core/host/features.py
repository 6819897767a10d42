"""ComfyUI's own features beside a run: what is refused before sampling, and what is set aside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import comfy.patcher_extension
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..edits.guide import Guide
from ..edits.replay import Replay
from ..program import Edit, Keep, Spec
from ..sites import Excerpt

_COMPILE_KEY = "torch.compile"  # of the wrapper that Torch Compile adds
_TIME = 2  # axis of the frames in a video latent [B, C, F, H, W]


def networks(patcher: ModelPatcher) -> list[nn.Module]:
    """The diffusion model, and its copies on other devices (MultiGPU CFG Split)."""
    copies = getattr(patcher, "additional_models", {}).get("multigpu", [])
    return [p.model.diffusion_model for p in (patcher, *copies)]


def check_features(
    active: Iterable[Spec], guider: Any, sampler: Any, shape: tuple[int, ...]
) -> None:
    """Raises ValueError, naming node and remedy, for what would go wrong. shape: of the latent."""
    for spec in active:
        problems = _hidden(sampler), _windows(spec, guider, shape), _compiled(guider)
        for problem in (*problems, _cached(spec, guider)):
            if problem:
                raise ValueError(f"{spec.asker.name}: {problem}")


def without_compile(options: dict[str, Any]) -> bool:
    """Take Torch Compile out of a copy of transformer_options; whether it was there.

    A compiled model keeps the functions of the sampling that compiled it, and does not look again.
    """
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    return options.get("wrappers", {}).get(kind, {}).pop(_COMPILE_KEY, None) is not None


def excerpt_of(handler: Any, options: dict[str, Any]) -> Excerpt | None:
    """The latent frames that a call sees, if context windows (their handler) cut the video."""
    window = options.get("context_window")
    if window is None:
        return None
    anchor = getattr(window, "causal_anchor_index", None)  # a frame put before the window
    before = [] if anchor is None or anchor < 0 else [anchor]
    frames = [*before, *window.index_list]
    for kept in getattr(handler, "latent_retain_index_list", ()):  # frames that every window shows
        frames[kept] = range(window.total_frames)[kept]
    return Excerpt(tuple(frames), window.total_frames)


def _hidden(sampler: Any) -> str:
    """One sampler of core evaluates the model without the options that carry our override."""
    if getattr(getattr(sampler, "sampler_function", None), "__name__", "") != "sample_ar_video":
        return ""
    return (
        "the sampler ar_video makes a video block by block and hides the model's attention from "
        "other nodes; choose another sampler, or bypass this node"
    )


def _windows(spec: Spec, guider: Any, shape: tuple[int, ...]) -> str:
    """What speaks against context windows, which ask the model about parts of the latent."""
    handler = guider.model_options.get("context_handler")
    dim: Any = getattr(handler, "dim", None)
    if handler is None or (dim in range(len(shape)) and shape[dim] <= handler.context_length):
        return ""
    if isinstance(spec, Keep) or (isinstance(spec, Edit) and isinstance(spec.change, Replay)):
        return "ComfyUI's Context Windows cut the video, a source does not; take that node out"
    if isinstance(spec, Edit):
        pairs = (
            "ComfyUI's Context Windows take one video at a time, a pair is two; take that node out"
        )
        return pairs if spec.change.pairs else ""
    if dim != _TIME:
        return (
            f"it cannot label context windows along dimension {dim} of the latent; set dim to "
            f"{_TIME} (frames) on Context Windows, or take that node out"
        )
    if spec.frames is not None and spec.frames.text.strip() != "all":
        return (
            f"frames {spec.frames.text!r} cannot be chosen beside Context Windows, where each call "
            "sees other frames; set frames to all, or take that node out"
        )
    return ""


def _compiled(guider: Any) -> str:
    patched = guider.model_patcher.object_patches.items()
    names = [name for name, value in patched if type(value).__name__ == "OptimizedModule"]
    for network in networks(guider.model_patcher):
        modules = network.named_modules()
        names += [name for name, m in modules if type(m).__name__ == "OptimizedModule"]
    if not names:
        return ""
    return (
        f"another node has compiled {names[0]}, and a compiled model does not let attention be "
        "watched or changed; take that node out"
    )


def _cached(spec: Spec, guider: Any) -> str:
    """EasyCache would skip the second of two evaluations of one latent."""
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    wrappers = guider.model_options["transformer_options"].get("wrappers", {}).get(kind, {})
    if not isinstance(spec, Edit) or "easycache" not in wrappers:
        return ""
    if isinstance(spec.change, Guide):
        return (
            "guidance evaluates the model once more in each step, and EasyCache skips that; use "
            "another mode, or take EasyCache out"
        )
    if not spec.change.rehearses:
        return ""
    return (
        "mode exact two-run evaluates the model twice in each step, and EasyCache skips the second "
        "time; use mode exact, or take EasyCache out"
    )
