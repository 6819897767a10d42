"""The feature of a prompt where CLIP has those of images: the pooled state, projected.

Only a text encoder of CLIP has one: a module `clip_…` of ComfyUI's CLIP objects, alone or beside
others. What the objects put out as pooled is often not projected, because diffusion models want it
that way. Many files (the `clip_l.safetensors` of Flux, checkpoints of SD 1.5) lack the projection,
and ComfyUI then leaves there what the memory held: so the file is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from comfy.clip_model import CLIPTextModel
from comfy.sd1_clip import SDClipModel
from safetensors import safe_open
from torch import Tensor, nn

from ..figures.judging import Prompt

PROJECTION = "text_projection"
_PREFIX = "clip_"  # of a module's name; its tokens are called by the rest
_SAFE = (".safetensors", ".sft")
_PAIRS = (
    "use the encoders of one CLIP model, such as clip_g beside the vision model of ViT-bigG, or "
    "one file of a whole CLIP model in both Load CLIP and Load CLIP Vision"
)


def prompt_of(text: str, clip: Any, clip_vision: Any) -> Prompt | None:
    """None where neither clip nor a prompt is given. Raises ValueError for what does not fit."""
    if not text.strip() and clip is None:
        return None
    _check_given(text, clip, clip_vision)
    width = _image_width(clip_vision)
    name, encoder = _text_encoder(clip, width)
    _check_projection(clip, encoder, width)
    tokens = clip.tokenize(text)
    features = _encode(clip, encoder, tokens, name)
    return Prompt(features, _too_long(tokens[name]))


def _check_given(text: str, clip: Any, clip_vision: Any) -> None:
    if clip is None:
        raise ValueError(
            "clip: prompt is given, but clip is not connected; connect Load CLIP with the text "
            "encoder of the CLIP model of clip_vision, or empty prompt"
        )
    if not text.strip():
        raise ValueError(
            "prompt: clip is connected, but prompt is empty; write what the videos should show, or "
            "disconnect clip"
        )
    if clip_vision is None:
        raise ValueError(
            "clip_vision: clip and prompt are given, but clip_vision is not connected; connect "
            "Load CLIP Vision with the vision model of the same CLIP model"
        )


def _image_width(clip_vision: Any) -> int:
    """Of the image features. Raises ValueError for an encoder that shares no space with texts."""
    model = getattr(clip_vision, "model", None)
    projection = getattr(model, "visual_projection", None)
    told = getattr(model, "multi_modal_projector", None)
    if not isinstance(projection, nn.Linear) or told is not None:
        kind = "of LLaVA" if told is not None else getattr(clip_vision, "model_type", "unknown")
        raise ValueError(
            f"clip_vision: this encoder ({kind}) has no image features that lie where texts do; "
            f"those of CLIP vision models do, not those of SigLIP, DINO and LLaVA; {_PAIRS}"
        )
    return projection.out_features


def _text_encoder(clip: Any, width: int) -> tuple[str, SDClipModel]:
    """Name of its tokens, and the encoder whose features have the width."""
    model = getattr(clip, "cond_stage_model", None)
    inside = dict(model.named_children()) if isinstance(model, nn.Module) else {}
    found = {
        name.removeprefix(_PREFIX): child
        for name, child in inside.items()
        if name.startswith(_PREFIX) and isinstance(child, SDClipModel) and _of_clip(child)
    }
    if not found:
        raise ValueError(
            f"clip: {type(model or clip).__name__} holds no text encoder of CLIP; T5, UMT5 and "
            f"language models, as most video models have them, share no space with images; {_PAIRS}"
        )
    widths = {name: x.transformer.text_projection.out_features for name, x in found.items()}
    for name, wide in widths.items():
        if wide == width:
            return name, found[name]
    there = ", ".join(f"{_PREFIX}{name} has {wide}" for name, wide in widths.items())
    raise ValueError(
        f"clip: {there} numbers in a text feature, but clip_vision has {width} in an image "
        f"feature; {_PAIRS}"
    )


def _of_clip(encoder: Any) -> bool:
    return isinstance(encoder.transformer, CLIPTextModel)


def _check_projection(clip: Any, encoder: SDClipModel, width: int) -> None:
    there = _filed(clip, width)
    lacks = f"without it text and image features lie in different spaces; {_PAIRS}"
    if there is None:
        raise ValueError(
            f"clip: whether its file holds {PROJECTION} cannot be told, and {lacks}, as a "
            ".safetensors file by ComfyUI's own loader"
        )
    if not there:
        raise ValueError(
            f"clip: its file holds no {PROJECTION} of {width} × {width} (that of Flux's "
            f"clip_l.safetensors and of SD 1.5 is missing), and {lacks}"
        )
    weight = encoder.transformer.text_projection.weight.detach().float().cpu()
    if not weight.isfinite().all() or not weight.any() or torch.equal(weight, torch.eye(width)):
        raise ValueError(f"clip: its {PROJECTION} is zero, the identity or not finite, and {lacks}")


def _filed(clip: Any, width: int) -> bool | None:
    """Whether a file that the encoders came from has their projection; None where none can tell."""
    made = clip.patcher.cached_patcher_init  # the loader and what it was given: first the files
    given = made[1][0] if made else []
    files = given if isinstance(given, list | tuple) else [given]
    safe = [str(x) for x in files if isinstance(x, str | Path) and str(x).lower().endswith(_SAFE)]
    if any(_holds(file, width) for file in safe):
        return True
    return False if files and len(safe) == len(files) else None


def _holds(file: str, width: int) -> bool:
    with safe_open(file, "pt") as found:
        return any(
            # one below this prefix (SD 1.x) is given another name by ComfyUI, and not loaded
            key.removesuffix(".weight").split(".")[-1] == PROJECTION
            and not key.startswith("cond_stage_model.transformer.")
            and found.get_slice(key).get_shape() == [width, width]
            for key in found.keys()
        )


def _encode(clip: Any, encoder: SDClipModel, tokens: dict[str, Any], name: str) -> Tensor:
    """Feature of the prompt's first section, [D]."""
    clip.load_model(tokens)
    encoder.reset_clip_options()
    encoder.set_clip_options(
        {"projected_pooled": True, "execution_device": clip.patcher.load_device}
    )
    try:
        found: Any = encoder.encode_token_weights(tokens[name][:1])
    finally:
        encoder.reset_clip_options()
    pooled: Tensor = found[1]  # [1, D]
    return pooled[0].float().cpu()


def _too_long(sections: list[Any]) -> str:
    if len(sections) == 1:
        return ""
    read = len(sections[0]) - 2  # but for start and end
    return f"The prompt is longer than CLIP reads: only its first {read} tokens count."
