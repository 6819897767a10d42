"""Tiny real models of Wan's variants, each with all that its own nodes put into the conditioning.

A model is made by core's own configuration class. What makes vectors of audio, faces or music from
large inputs is replaced by a small one of the same interface: it attends to no video.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import comfy.ldm.wan.model
import comfy.ldm.wan.model_multitalk as multitalk
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.supported_models as supported
import comfyui_version
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn
from vdit_attention.tests.nodes import families, tiny
from vdit_attention.tests.nodes.families import Family, Seen, numbered
from vdit_attention.tests.nodes.tiny import COLS, FRAMES, HEADS, LAYERS, ROWS, Conditioning

F = TypeVar("F", bound=Family)

WIDTH = tiny.CONFIG["dim"]
Extras = dict[str, Any]


@dataclass(frozen=True)
class Variant(Family):
    """A Wan model that is not plain text-to-video.

    given: what is put into both conditionings. order: the layer of each self-attention call of an
    evaluation, None for a call of something else. masked_frame: whether a mask of the latent gives
    the first frame.
    """

    given: Callable[[], Extras] = dict
    order: tuple[int | None, ...] = tuple(range(LAYERS))
    masked_frame: bool = False

    def latent(self, batch: int = 1) -> dict[str, Any]:
        latent = super().latent(batch)
        if self.masked_frame:
            latent["noise_mask"] = torch.ones(1, 1, *latent["samples"].shape[2:])
            latent["noise_mask"][:, :, 0] = 0
        return latent

    def prompt(self, seed: int, tokens: int = 6, padded: int = 11) -> Conditioning:
        prompt = super().prompt(seed, tokens, padded)
        torch.manual_seed(0)
        prompt[0][1] |= self.given()
        return prompt

    def spied(self, model: ModelPatcher, monkeypatch: pytest.MonkeyPatch, **how: Any) -> list[Seen]:
        """The calls of the layers alone, layer by layer."""
        seen, cycle = super().spied(model, monkeypatch, **how), len(self.order)
        assert len(seen) % cycle == 0
        return [call for i, call in enumerate(seen) if self.order[i % cycle] is not None]


def variant(
    name: str,
    config: str,
    kind: str,
    given: Callable[[], Extras] = dict,
    settings: dict[str, Any] | None = None,
    finish: Callable[[ModelPatcher], ModelPatcher] = lambda model: model,
    **facts: Any,
) -> Variant:
    """config: core's class. settings: of the network, where they differ from the tiny one's.
    finish: makes it small.
    """

    def make(seed: int = 0) -> ModelPatcher:
        if not hasattr(supported, config):
            pytest.skip(f"this ComfyUI does not know {name}")
        numbers = tiny.CONFIG | {"image_model": "wan2.1", "model_type": kind} | (settings or {})
        return finish(families.patcher(getattr(supported, config)(numbers), seed))

    usual = {"module": "comfy.ldm.wan.model", "channels": 16, "patch": (1, 1, 1)}
    return Variant(name, make=make, text_first=False, given=given, **(usual | facts))


def older_than(version: str) -> bool:
    """Whether this is a ComfyUI before a version."""
    now, then = (
        [int(part) for part in text.split(".")[:2]]
        for text in (comfyui_version.__version__, version)
    )
    return now < then


def or_skipped(family: F) -> F:
    """The family, where this ComfyUI takes what its tests give it."""
    if older_than(family.since):
        pytest.skip(f"only ComfyUI {family.since} or newer takes what is given here")
    return family


def video(channels: int = 16, frames: int = FRAMES, rows: int = ROWS, cols: int = COLS) -> Tensor:
    return torch.randn(1, channels, frames, rows, cols)


def mask_of_first_frame() -> Tensor:
    mask = torch.ones(1, 1, FRAMES, ROWS, COLS)
    mask[:, :, 0] = 0
    return mask


def clip_vision(tokens: int = 5) -> Any:
    hidden = torch.randn(1, tokens, 1280)
    return type("ClipVision", (), {"penultimate_hidden_states": hidden})


def image_to_video() -> Extras:
    return {"concat_latent_image": video(), "concat_mask": mask_of_first_frame()}


def image_to_video_seen() -> Extras:
    return image_to_video() | {"clip_vision_output": clip_vision()}


def first_and_last_frame() -> Extras:
    return image_to_video() | {"clip_vision_output": clip_vision(10)}


def fun_control() -> Extras:
    return {"concat_latent_image": video(32), "clip_vision_output": clip_vision()}


def fun_control_22() -> Extras:
    extras: Extras = {"concat_latent_image": video(32), "concat_mask_index": 16}
    mask = mask_of_first_frame().expand(-1, 4, -1, -1, -1)
    return extras | {"concat_mask": mask, "reference_latents": [video(frames=1)]}


def vace() -> Extras:
    frames, masks = [video(32), video(32)], [video(64), video(64)]
    return {"vace_frames": frames, "vace_mask": masks, "vace_strength": [1.0, 0.5]}


def camera() -> Extras:
    return {"camera_conditions": video(24, rows=8 * ROWS, cols=8 * COLS)} | image_to_video()


def animate() -> Extras:
    faces = video(3, frames=4 * (FRAMES - 1), rows=8, cols=8)
    pose = {"face_video_pixels": faces, "pose_video_latent": video(frames=FRAMES - 1)}
    return pose | image_to_video_seen()


def speech_to_video() -> Extras:
    size = {"rows": 2 * ROWS, "cols": 2 * COLS}
    return {
        "audio_embed": torch.randn(1, 25, 8, 4 * FRAMES),
        "reference_latents": [video(frames=1, **size)],
        "reference_motion": video(frames=19, **size),
        "control_video": video(**size),
    }


def humo() -> Extras:
    audio = torch.randn(1, FRAMES, 8, 5, 2)
    return {"audio_embed": audio, "reference_latents": [video(frames=1)]}


def scail() -> Extras:
    pose = video(rows=3, cols=4)
    extras: Extras = {"reference_latents": [video(frames=1)], "pose_video_latent": pose}
    return extras | {"clip_vision_output": clip_vision()}


def scail_2() -> Extras:
    masks = {
        "driving_mask_28ch": torch.rand(1, FRAMES, 28, 3, 4),
        "ref_mask_28ch": torch.rand(1, 2 + FRAMES, 28, ROWS, COLS),
        "ref_mask_flag": False,
    }
    return scail() | masks | {"reference_latents": [video(frames=1), video(frames=1)]}


def dancer() -> Extras:
    image = video(cols=8)
    return {
        "concat_latent_image": image,
        "clip_vision_output": clip_vision(),
        "clip_vision_output_ref": clip_vision(),
        "audio_embed": torch.randn(1, 20, 35),
        "fps": 15.0,
    }


def phantom() -> Extras:
    return {"time_dim_concat": video(frames=2)}


def context() -> Extras:
    return {"context_latents": [video(), video(frames=1, rows=2, cols=3)]}


class SmallFaces(nn.Module):
    """Motion vectors of faces from the mean colours of their pictures."""

    def get_motion(self, pictures: Tensor) -> Tensor:
        return pictures.mean((2, 3)) @ torch.linspace(-1, 1, 3 * 512).view(3, 512)


def with_small_faces(model: ModelPatcher) -> ModelPatcher:
    model.model.diffusion_model.motion_encoder = SmallFaces()
    return model


def with_small_audio(model: ModelPatcher) -> ModelPatcher:
    small = comfy.ldm.wan.model.AudioProjModel(
        8, 5, 2, 16, 1536, 16, operations=comfy.ops.disable_weight_init
    )
    model.model.diffusion_model.audio_proj = _drawn(small)
    return model


class Talk(nn.Module):
    """The patch of InfiniteTalk: a cross-attention to the audio for each block."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for _ in range(LAYERS):
            block: Any = nn.Module()
            block.norm_x = nn.LayerNorm(WIDTH)
            block.audio_cross_attn = multitalk.SingleStreamMultiAttention(
                WIDTH, 6, HEADS, True, operations=comfy.ops.disable_weight_init
            )
            self.blocks.append(block)


def with_two_speakers(model: ModelPatcher) -> ModelPatcher:
    """What the node WanInfiniteTalkToVideo does to its model."""
    patched, cpu = model.clone(), torch.device("cpu")
    talk = comfy.model_patcher.ModelPatcher(_drawn(Talk()), cpu, cpu)
    speakers = torch.zeros(2, ROWS * COLS)
    speakers[0, :10], speakers[1, 20:] = 1, 1
    audio = torch.randn(1, FRAMES, 8, 6, generator=torch.Generator().manual_seed(0))
    patched.model_options["transformer_options"]["audio_embeds"] = audio
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    first = torch.randn(1, 16, 1, ROWS, COLS, generator=torch.Generator().manual_seed(1))
    outer = multitalk.InfiniteTalkOuterSampleWrapper(first, talk)
    patched.add_wrapper_with_key(kind, "infinite_talk_outer_sample", outer)
    patched.set_model_patch(multitalk.MultiTalkCrossAttnPatch(talk), "attn2_patch")
    patched.set_model_patch(multitalk.MultiTalkGetAttnMapPatch(speakers), "attn1_patch")
    return patched


def _drawn(module: nn.Module) -> Any:
    torch.manual_seed(0)
    for name, weight in module.named_parameters():
        families.draw(name, weight)
    return module


PICTURE = ROWS * COLS
I2V = variant("Wan 2.1 image to video", "WAN21_I2V", "i2v", image_to_video_seen, {"in_dim": 36})
MUSIC = {"music_dim": 32, "music_latent_dim": 32, "audio_inject_layers": [0, 2]}
CAUSAL = variant(
    "Causal Forcing, all frames at once",
    "WAN21_CausalAR_T2V",
    "t2v",
    module="comfy.ldm.wan.ar_model",
)
VARIANTS = (
    variant(
        "Wan 2.2 5B",
        "WAN22_T2V",
        "t2v",
        settings={"in_dim": 48, "out_dim": 48},
        channels=48,
        masked_frame=True,
        sampled_from=1,
    ),
    I2V,
    variant("Wan 2.2 14B image to video", "WAN21_T2V", "t2v", image_to_video, {"in_dim": 36}),
    variant(
        "Wan first and last frame",
        "WAN21_I2V",
        "i2v",
        first_and_last_frame,
        {"in_dim": 36, "flf_pos_embed_token_number": 10},
    ),
    variant("Wan 2.1 Fun Control", "WAN21_FunControl2V", "i2v", fun_control, {"in_dim": 48}),
    variant(
        "Wan 2.2 Fun Control",
        "WAN21_T2V",
        "t2v",
        fun_control_22,
        {"in_dim": 52, "in_dim_ref_conv": 16},
        prefix=PICTURE,
    ),
    variant(
        "Wan VACE",
        "WAN21_Vace",
        "vace",
        vace,
        {"vace_layers": 3, "vace_in_dim": 96},
        order=(0, None, None, 1, None, None, 2, None, None),
    ),
    variant(
        "Wan 2.1 Fun Camera",
        "WAN21_Camera",
        "camera",
        lambda: camera() | {"clip_vision_output": clip_vision()},
        {"in_dim": 32},
    ),
    variant("Wan 2.2 Fun Camera", "WAN22_Camera", "camera_2.2", camera, {"in_dim": 36}),
    variant(
        "Wan 2.2 Animate",
        "WAN22_Animate",
        "animate",
        animate,
        {"in_dim": 36, "num_layers": 5},
        with_small_faces,
        sites=numbered("blocks.{}.self_attn", 5),
        order=(0, 1, 2, 3, 4),
    ),
    variant(
        "Wan 2.2 S2V",
        "WAN22_S2V",
        "s2v",
        speech_to_video,
        {"patch_size": (1, 2, 2), "audio_dim": 8, "audio_inject_layers": [0, 2]},
        patch=(1, 2, 2),
        suffix=PICTURE + (5 * 7 + 2 * 3 + 4 * 1 * 1),
    ),
    variant(
        "HuMo",
        "WAN21_HuMo",
        "humo",
        humo,
        {"in_dim": 36},
        with_small_audio,
        suffix=PICTURE,
    ),
    variant(
        "SCAIL",
        "WAN21_SCAIL",
        "scail",
        scail,
        {"in_dim": 20},
        prefix=PICTURE,
        suffix=FRAMES * 3 * 4,
    ),
    variant(
        "SCAIL-2",
        "WAN21_SCAIL2",
        "scail2",
        scail_2,
        {"in_dim": 20},
        prefix=2 * PICTURE,
        suffix=FRAMES * 3 * 4,
        since="0.27",  # before, it took one reference
    ),
    variant(
        "WanDancer",
        "WAN22_WanDancer",
        "wandancer",
        dancer,
        {"in_dim": 36, **MUSIC},
        grid=(FRAMES, ROWS, 8),
    ),
    replace(
        I2V,
        name="InfiniteTalk",
        make=lambda seed=0: with_two_speakers(I2V.make(seed)),
        sampled_from=1,
    ),
    variant("Phantom", "WAN21_T2V", "t2v", phantom, suffix=2 * PICTURE),
    variant("Bernini", "WAN21_T2V", "t2v", context, suffix=FRAMES * PICTURE + 2 * 3, since="0.24"),
    CAUSAL,
)
