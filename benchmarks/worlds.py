"""The models that workflows are made for: their loaders, sizes, prompts and samplers.

File names and links are those of core's own templates and example pages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .canvas import Canvas, Socket

HUGGING_FACE = "https://huggingface.co"
WAN21_FILES = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
WAN22_FILES = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"
MOCHI_FILES = "Comfy-Org/mochi_preview_repackaged"
HUNYUAN_FILES = "Comfy-Org/HunyuanVideo_repackaged"


@dataclass(frozen=True)
class Loaded:
    """The three parts of a model. later: the model of the schedule's later steps, if it has one."""

    model: Socket
    clip: Socket
    vae: Socket
    later: Socket | None = None


@dataclass(frozen=True)
class World:
    """A model and what suits it. target: a prompt that differs little from `prompt`.

    empty: the node that makes its latents. guidance: the number that a distilled model is told.
    """

    name: str
    load: Callable[[Canvas], Loaded]
    save: Callable[[Canvas, Socket, str, str], None]
    prompt: str
    target: str
    negative: str
    size: dict[str, int]
    sampling: dict[str, Any]
    seed: int
    empty: str = "EmptyHunyuanLatentVideo"
    guidance: float | None = None


def load_toy(variant: str) -> Callable[[Canvas], Loaded]:
    def load(canvas: Canvas) -> Loaded:
        world = canvas.add("VDiTToyWorld", variant=variant)
        return Loaded(world["MODEL"], world["CLIP"], world["VAE"])

    return load


def save_webp(canvas: Canvas, images: Socket, title: str, file: str) -> None:
    canvas.add("SaveAnimatedWEBP", title=title, images=images, filename_prefix=file, fps=8.0)


def load_wan(canvas: Canvas) -> Loaded:
    model = _model(canvas, WAN21_FILES, "wan2.1_t2v_1.3B_fp16.safetensors")
    text = _weights(WAN21_FILES, "text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
    clip, vae = _clip(canvas, "wan", text), _vae(canvas, WAN21_FILES, "wan_2.1_vae.safetensors")
    shifted = canvas.add("ModelSamplingSD3", model=model, shift=8.0)["MODEL"]
    return Loaded(shifted, clip, vae)


def load_wan22(canvas: Canvas) -> Loaded:
    names = (f"wan2.2_t2v_{noise}_noise_14B_fp8_scaled.safetensors" for noise in ("high", "low"))
    models = [_model(canvas, WAN22_FILES, name) for name in names]
    text = _weights(WAN21_FILES, "text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
    clip, vae = _clip(canvas, "wan", text), _vae(canvas, WAN22_FILES, "wan_2.1_vae.safetensors")
    high, low = (canvas.add("ModelSamplingSD3", model=m, shift=8.0)["MODEL"] for m in models)
    return Loaded(high, clip, vae, low)


def load_mochi(canvas: Canvas) -> Loaded:
    model = _model(canvas, MOCHI_FILES, "mochi_preview_bf16.safetensors")
    text = _weights(MOCHI_FILES, "text_encoders", "t5xxl_fp16.safetensors")
    return Loaded(
        model, _clip(canvas, "mochi", text), _vae(canvas, MOCHI_FILES, "mochi_vae.safetensors")
    )


def load_hunyuan_video(canvas: Canvas) -> Loaded:
    model = _model(canvas, HUNYUAN_FILES, "hunyuan_video_t2v_720p_bf16.safetensors")
    clip_l = f"{HUGGING_FACE}/comfyanonymous/flux_text_encoders/resolve/main/clip_l.safetensors"
    texts = [
        {"name": "clip_l.safetensors", "url": f"{clip_l}?download=true"}
        | {"directory": "text_encoders"},
        _weights(HUNYUAN_FILES, "text_encoders", "llava_llama3_fp8_scaled.safetensors"),
    ]
    canvas.models["DualCLIPLoader"] = texts
    names: dict[str, Any] = {f"clip_name{n}": text["name"] for n, text in enumerate(texts, 1)}
    clip = canvas.add("DualCLIPLoader", type="hunyuan_video", **names)["CLIP"]
    vae = _vae(canvas, HUNYUAN_FILES, "hunyuan_video_vae_bf16.safetensors")
    shifted = canvas.add("ModelSamplingSD3", model=model, shift=7.0)["MODEL"]
    return Loaded(shifted, clip, vae)


def save_mp4(fps: float) -> Callable[[Canvas, Socket, str, str], None]:
    def save(canvas: Canvas, images: Socket, title: str, file: str) -> None:
        video = canvas.add("CreateVideo", images=images, fps=fps)["VIDEO"]
        canvas.add("SaveVideo", title=title, video=video, filename_prefix=file)

    return save


def _model(canvas: Canvas, repository: str, name: str) -> Socket:
    canvas.models["UNETLoader"] = [_weights(repository, "diffusion_models", name)]
    return canvas.add("UNETLoader", unet_name=name)["MODEL"]


def _clip(canvas: Canvas, kind: str, weights: dict[str, str]) -> Socket:
    canvas.models["CLIPLoader"] = [weights]
    return canvas.add("CLIPLoader", clip_name=weights["name"], type=kind)["CLIP"]


def _vae(canvas: Canvas, repository: str, name: str) -> Socket:
    canvas.models["VAELoader"] = [_weights(repository, "vae", name)]
    return canvas.add("VAELoader", vae_name=name)["VAE"]


def _weights(repository: str, directory: str, name: str) -> dict[str, str]:
    files = f"{HUGGING_FACE}/{repository}/resolve/main/split_files"
    return {"name": name, "url": f"{files}/{directory}/{name}?download=true"} | {
        "directory": directory
    }


TOY = World(
    name="toy",
    load=load_toy("wan"),
    save=save_webp,
    prompt="a red circle falling on a striped background",
    target="a blue circle falling on a striped background",
    negative="",
    size={"width": 64, "height": 64, "length": 17, "batch_size": 1},
    sampling={"steps": 20, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"},
    seed=3,
)

TOY_MOCHI = replace(TOY, name="toy_mochi", load=load_toy("mochi"))

WAN21 = World(
    name="wan21",
    load=load_wan,
    save=save_mp4(16.0),
    prompt="a car driving along a coastal road, side view, tracking camera, daylight",
    target="a red car driving along a coastal road, side view, tracking camera, daylight",
    negative="blurry, overexposed, static, worst quality, low quality, watermark, text",
    size={"width": 832, "height": 480, "length": 33, "batch_size": 1},
    sampling={"steps": 30, "cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "simple"},
    seed=7,
)

WAN22 = World(
    name="wan22",
    load=load_wan22,
    save=save_mp4(16.0),
    prompt=WAN21.prompt,
    target=WAN21.target,
    negative=WAN21.negative,
    size=WAN21.size,
    sampling={"steps": 20, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple"},
    seed=7,
)

MOCHI = World(
    name="mochi",
    load=load_mochi,
    save=save_mp4(24.0),
    prompt=WAN21.prompt,
    target=WAN21.target,
    negative="",
    size={"width": 848, "height": 480, "length": 37, "batch_size": 1},
    sampling={"steps": 30, "cfg": 4.5, "sampler_name": "euler", "scheduler": "simple"},
    seed=7,
    empty="EmptyMochiLatentVideo",
)

HUNYUAN_VIDEO = World(
    name="hunyuan_video",
    load=load_hunyuan_video,
    save=save_mp4(24.0),
    prompt=WAN21.prompt,
    target=WAN21.target,
    negative="",
    size={"width": 848, "height": 480, "length": 33, "batch_size": 1},
    sampling={"steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"},
    seed=7,
    guidance=6.0,
)
