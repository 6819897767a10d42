"""Nodes that show where attention goes: in space and time, on the video, and to the prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..vdit_core.figures.origin import data_of
from ..vdit_core.figures.panels import Chosen, captured_items
from ..vdit_core.figures.pictures import colours_of
from ..vdit_core.figures.statistics import Statistics
from ..vdit_core.figures.structure import VIEWS, draw_structure
from ..vdit_core.figures.text_attention import draw_text_attention
from ..vdit_core.host.words import words_if_given
from ..vdit_core.pairs import Latent
from ..vdit_core.record import Record
from ..vdit_core.selection import parse_selection
from . import sockets


class VDiTStructure(io.ComfyNode):
    """Draw where attention goes in space, in time and on the video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTStructure",
            display_name="VDiT Structure",
            category=f"{sockets.CATEGORY}/look",
            search_aliases=[
                "attention structure",
                "frame distance",
                "attention on video",
                "compare attention maps",
            ],
            description="Where attention goes: by distance in time and in the picture, from frame "
            "to frame, on the decoded video itself, and how alike the maps of two records are. "
            "(arXiv 2504.10317, Fig. 1)",
            inputs=[
                *sockets.record_inputs(),
                io.Combo.Input(
                    "view",
                    options=list(VIEWS),
                    default="by distance",
                    tooltip="by distance, frame by frame: need structure on VDiT Capture. looked "
                    "at (weight each place receives), looks widely (entropy of each place): need "
                    "sinks. similarity: needs other.",
                ),
                sockets.layer_input(),
                io.String.Input(
                    "head",
                    default="mean",
                    tooltip="mean of all captured heads, or each of the heads given, from 0: 3, or "
                    "0,2, or all. by distance always draws the mean.",
                ),
                *sockets.moment_inputs(),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="looked at, looks widely: the decoded video to draw on, from VAE "
                    "Decode. Without it each latent frame is drawn by itself.",
                ),
                sockets.Record.Input(
                    "other",
                    optional=True,
                    tooltip="similarity: the second record, of another prompt or of another model "
                    "with maps of the same size.",
                ),
                io.Latent.Input(
                    "other_latent",
                    optional=True,
                    tooltip="similarity: the output of the sampler that fills the other record, so "
                    "that this node runs after it too. For a loaded record: leave it open.",
                ),
            ],
            outputs=sockets.drawn_outputs(),
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        record: Record,
        view: str,
        layer: str,
        head: str,
        step: str,
        branch: str,
        latent: Latent | None = None,
        images: Tensor | None = None,
        other: Record | None = None,
        other_latent: Latent | None = None,
    ) -> io.NodeOutput:
        second = None if other is None else data_of(other, other_latent)
        videos = None if images is None else videos_of(images, "images", record, latent)

        def draw(chosen: Chosen) -> Statistics:
            video = None if videos is None else videos[chosen.item]
            return draw_structure(record.data, view, chosen, video=video, other=second)

        return _drawn(cls, record, latent, (layer, head, step, branch), draw)


class VDiTTextAttention(io.ComfyNode):
    """Draw what the prompt's tokens receive."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTTextAttention",
            display_name="VDiT Text Attention",
            category=f"{sockets.CATEGORY}/look",
            search_aliases=["text attention", "cross attention", "prompt tokens", "first token"],
            description="How much of the video's attention to the prompt each token receives, "
            "layer by layer, with the first token's share and how much goes to the text at all. "
            "Needs text on VDiT Capture. (arXiv 2504.10317, Fig. 6)",
            inputs=[
                *sockets.record_inputs(),
                sockets.layer_input(),
                io.Int.Input(
                    "tokens",
                    default=24,
                    min=1,
                    max=128,
                    tooltip="How many tokens are drawn one by one, from the first; the others are "
                    "drawn as one sum, the padding as another. csv has them all.",
                ),
                *sockets.moment_inputs(),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder of the prompt: its tokenizer tells which token is "
                    "which word. Without it tokens are numbered.",
                ),
                io.String.Input(
                    "text",
                    default="",
                    optional=True,
                    tooltip="With clip: the prompt that was sampled, of the branch that is shown.",
                ),
            ],
            outputs=sockets.drawn_outputs(),
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        record: Record,
        layer: str,
        tokens: int,
        step: str,
        branch: str,
        latent: Latent | None = None,
        clip: Any = None,
        text: str = "",
    ) -> io.NodeOutput:
        words = words_if_given(clip, text)

        def draw(chosen: Chosen) -> Statistics:
            return draw_text_attention(record.data, chosen, words=words, most=tokens)

        return _drawn(cls, record, latent, (layer, "mean", step, branch), draw)


def _drawn(
    node: type[io.ComfyNode],
    record: Record,
    latent: Latent | None,
    asked: tuple[str, str, str, str],
    draw: Callable[[Chosen], Statistics],
) -> io.NodeOutput:
    """Every video of the record, drawn. asked: layer, head, step and branch."""
    items = captured_items(data_of(record, latent))
    layer, head, step, branch = asked
    chosen = parse_selection(layer, "layers"), head, parse_selection(step, "steps"), branch
    return sockets.drawn(node, [draw(Chosen(*chosen, item)) for item in items])


def videos_of(
    images: Tensor, name: str, record: Record, latent: Latent | None
) -> tuple[Tensor, ...]:
    """The decoded videos of the batch, one after the other in the input `name`, apart."""
    frames = colours_of(images, name)
    count = captured_items(record.data)[-1] + 1 if latent is None else len(latent["samples"])
    if len(frames) % count:
        raise ValueError(
            f"{name}: {len(frames)} frames are not {count} videos of one length; connect what VAE "
            "Decode made of the latent of this record"
        )
    return frames.chunk(count)


NODES = [VDiTStructure, VDiTTextAttention]
