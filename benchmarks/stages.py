"""What the workflows of one model begin and end with: its loaders, prompts, sampler and saving."""

from __future__ import annotations

from typing import Any

from .canvas import Canvas, Node, Socket
from .worlds import World


class Stage:
    """The left part of a workflow, laid out, and the steps that all workflows share.

    empty: whether it has an empty video.
    """

    def __init__(
        self,
        canvas: Canvas,
        world: World,
        note: str,
        prompts: dict[str, str],
        empty: bool = True,
    ) -> None:
        self.canvas, self.world = canvas, world
        with canvas.group("What this shows") as top:
            canvas.note(note)
        with canvas.group("Model and size", below=top):
            self.loaded = world.load(canvas)
            self._latent = self._empty()["LATENT"] if empty else None
        with canvas.group("Prompts", right_of=top) as self.left:
            self.prompts = [
                self._encode(text, title, "positive") for title, text in prompts.items()
            ]
            self.negative = self._encode(world.negative, "Negative prompt", "negative")

    @property
    def latent(self) -> Socket:
        """The empty video."""
        assert self._latent is not None
        return self._latent

    @property
    def model(self) -> Socket:
        return self.loaded.model

    def sample(
        self, model: Socket, positive: Socket, latent: Socket | None = None, **chosen: Any
    ) -> Socket:
        """Put a sampler on the canvas; returns its latent. chosen: other settings, or a title."""
        node = self.canvas.add(
            "KSampler",
            model=model,
            positive=positive,
            negative=self.negative,
            latent_image=latent or self.latent,
            seed=self.world.seed,
            **(self.world.sampling | chosen),
        )
        return node["LATENT"]

    def sample_part(
        self, model: Socket, positive: Socket, latent: Socket, first: int, last: int | None
    ) -> Socket:
        """Put a sampler of steps `first` up to `last` on the canvas, None for all that are left."""
        noise = "enable" if first == 0 else "disable"
        leftover = "disable" if last is None else "enable"
        node = self.canvas.add(
            "KSamplerAdvanced",
            model=model,
            positive=positive,
            negative=self.negative,
            latent_image=latent,
            add_noise=noise,
            noise_seed=self.world.seed,
            start_at_step=first,
            end_at_step=last or 10000,
            return_with_leftover_noise=leftover,
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
        return self.canvas.add(self.world.empty, title="Empty video", **size)

    def _encode(self, text: str, title: str, colour: str) -> Socket:
        node = self.canvas.add(
            "CLIPTextEncode", title=title, colour=colour, clip=self.loaded.clip, text=text
        )
        return node["CONDITIONING"]


def draw(
    canvas: Canvas, record: Socket, latent: Socket | None, title: str, file: str, **chosen: Any
) -> None:
    """Put a picture of captured maps on the canvas, and save it."""
    chosen |= {} if latent is None else {"latent": latent}
    image = canvas.add("VDiTAttentionMap", title=title, record=record, **chosen)["IMAGE"]
    canvas.add("SaveImage", title=title, images=image, filename_prefix=f"vdit/{file}")


def tell(
    canvas: Canvas, record: Socket, latent: Socket, title: str, statistic: str, world: str
) -> None:
    """Put one statistic on the canvas, as a picture that is saved and as a table."""
    drawn = canvas.add(
        "VDiTStatistics", title=title, record=record, latent=latent, statistic=statistic
    )
    file = f"vdit/{world}_statistics_{statistic.replace(' ', '_')}"
    canvas.add("SaveImage", title=title, images=drawn["IMAGE"], filename_prefix=file)
    canvas.add("PreviewAny", title=f"{title} In numbers", wide=420, source=drawn["report"])


def compare(canvas: Canvas, a: Socket, b: Socket, title: str) -> None:
    """Put the comparison of two videos on the canvas."""
    found = canvas.add("VDiTCompareVideos", title=title, a=a, b=b)
    told = f"{title}, in numbers"
    canvas.add("PreviewAny", title=told, wide=max(260, 80 + 8 * len(told)), source=found["report"])


def transfer(canvas: Canvas, world: World, note: str, layers: str) -> None:
    """A target prompt that uses the attention maps of a source prompt in some layers."""
    prompts = {"Source prompt": world.prompt, "Target prompt": world.target}
    stage = Stage(canvas, world, note, prompts)
    source, target = stage.prompts
    with canvas.group("Source and target in one batch", colour="ours"):
        pair = canvas.add("VDiTPairPrompts", source=source, target=target)["CONDITIONING"]
        latent = canvas.add("VDiTPairLatent", latent=stage.latent)["LATENT"]
        model = canvas.add("VDiTTransfer", model=stage.model, layers=layers)["MODEL"]
    with canvas.group("Sample the pair") as sampling:
        halves = canvas.add("VDiTSplitPair", latent=stage.sample(model, pair, latent))
    with canvas.group("The source", across=True, colour="result") as first:
        a = stage.save(halves["source"], "Source video", "transfer_source")
    with canvas.group("The edit", across=True, colour="result", below=first) as second:
        b = stage.save(halves["edited"], "Edited video", "transfer_edited")
    with canvas.group("Target prompt alone, same seed", below=sampling):
        alone = stage.sample(stage.model, target)
    with canvas.group("Without transfer", across=True, colour="result", below=second):
        c = stage.save(alone, "Target video", "transfer_target")
    with canvas.group("How near is the edit?", across=True, colour="ours", right_of=first) as near:
        compare(canvas, a, b, "Source against edit")
    with canvas.group("And without transfer?", across=True, colour="ours", below=near):
        compare(canvas, a, c, "Source against target alone")
