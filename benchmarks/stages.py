"""What the workflows of one model begin and end with: its loaders, prompts, sampler and saving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .canvas import Canvas, Node, Socket


@dataclass(frozen=True)
class Loaded:
    """The three parts of a model."""

    model: Socket
    clip: Socket
    vae: Socket


@dataclass(frozen=True)
class World:
    """A model and what suits it. target: a prompt that differs little from `prompt`."""

    name: str
    load: Callable[[Canvas], Loaded]
    save: Callable[[Canvas, Socket, str, str], None]
    prompt: str
    target: str
    negative: str
    size: dict[str, int]
    sampling: dict[str, Any]
    seed: int


class Stage:
    """The left part of a workflow, laid out, and the steps that all workflows share."""

    def __init__(self, canvas: Canvas, world: World, note: str, prompts: dict[str, str]) -> None:
        self.canvas, self.world = canvas, world
        with canvas.group("What this shows") as top:
            canvas.note(note)
        with canvas.group("Model and size", below=top):
            self.loaded = world.load(canvas)
            self.latent = self._empty()["LATENT"]
        with canvas.group("Prompts", right_of=top) as self.left:
            self.prompts = [
                self._encode(text, title, "positive") for title, text in prompts.items()
            ]
            self.negative = self._encode(world.negative, "Negative prompt", "negative")

    @property
    def model(self) -> Socket:
        return self.loaded.model

    def sample(self, model: Socket, positive: Socket, latent: Socket | None = None) -> Socket:
        """Put a sampler on the canvas; returns its latent."""
        node = self.canvas.add(
            "KSampler",
            model=model,
            positive=positive,
            negative=self.negative,
            latent_image=latent or self.latent,
            seed=self.world.seed,
            **self.world.sampling,
        )
        return node["LATENT"]

    def save(self, latent: Socket, title: str, file: str) -> Socket:
        """Decode and save a video under a title; returns its frames."""
        images = self.canvas.add("VAEDecode", samples=latent, vae=self.loaded.vae)["IMAGE"]
        self.world.save(self.canvas, images, title, f"vdit/{self.world.name}_{file}")
        return images

    def _empty(self) -> Node:
        size: dict[str, Any] = dict(self.world.size)
        return self.canvas.add("EmptyHunyuanLatentVideo", title="Empty video", **size)

    def _encode(self, text: str, title: str, colour: str) -> Socket:
        node = self.canvas.add(
            "CLIPTextEncode", title=title, colour=colour, clip=self.loaded.clip, text=text
        )
        return node["CONDITIONING"]


def load_toy(canvas: Canvas) -> Loaded:
    world = canvas.add("VDiTToyWorld")
    return Loaded(world["MODEL"], world["CLIP"], world["VAE"])


def save_webp(canvas: Canvas, images: Socket, title: str, file: str) -> None:
    canvas.add("SaveAnimatedWEBP", title=title, images=images, filename_prefix=file, fps=8.0)


def load_wan(canvas: Canvas) -> Loaded:
    """Core's loaders, with the file names and links of core's own template."""
    canvas.models |= {
        "UNETLoader": _weights("diffusion_models", "wan2.1_t2v_1.3B_fp16.safetensors"),
        "CLIPLoader": _weights("text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"),
        "VAELoader": _weights("vae", "wan_2.1_vae.safetensors"),
    }
    names = {kind: model["name"] for kind, model in canvas.models.items()}
    model = canvas.add("UNETLoader", unet_name=names["UNETLoader"])["MODEL"]
    clip = canvas.add("CLIPLoader", clip_name=names["CLIPLoader"], type="wan")["CLIP"]
    vae = canvas.add("VAELoader", vae_name=names["VAELoader"])["VAE"]
    shifted = canvas.add("ModelSamplingSD3", model=model, shift=8.0)["MODEL"]
    return Loaded(shifted, clip, vae)


def save_mp4(canvas: Canvas, images: Socket, title: str, file: str) -> None:
    video = canvas.add("CreateVideo", images=images, fps=16.0)["VIDEO"]
    canvas.add("SaveVideo", title=title, video=video, filename_prefix=file)


def _weights(directory: str, name: str) -> dict[str, str]:
    repository = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main"
    url = f"{repository}/split_files/{directory}/{name}?download=true"
    return {"name": name, "url": url, "directory": directory}


TOY = World(
    name="toy",
    load=load_toy,
    save=save_webp,
    prompt="a red circle falling on a striped background",
    target="a blue circle falling on a striped background",
    negative="",
    size={"width": 64, "height": 64, "length": 17, "batch_size": 1},
    sampling={"steps": 20, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"},
    seed=3,
)

WAN21 = World(
    name="wan21",
    load=load_wan,
    save=save_mp4,
    prompt="a car driving along a coastal road, side view, tracking camera, daylight",
    target="a red car driving along a coastal road, side view, tracking camera, daylight",
    negative="blurry, overexposed, static, worst quality, low quality, watermark, text",
    size={"width": 832, "height": 480, "length": 33, "batch_size": 1},
    sampling={"steps": 30, "cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "simple"},
    seed=7,
)
