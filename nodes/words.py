"""The node that shows from where on the video a word of the prompt is looked at."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..vdit_core.figures.origin import data_of
from ..vdit_core.figures.panels import Chosen, captured_items
from ..vdit_core.figures.table import Table
from ..vdit_core.figures.token_heatmap import draw_token_heatmap
from ..vdit_core.host.words import words_if_given
from ..vdit_core.pairs import Latent
from ..vdit_core.record import Record
from ..vdit_core.selection import parse_selection
from ..vdit_core.words import tokens_of
from . import sockets
from .structure import videos_of


class VDiTTokenHeatmap(io.ComfyNode):
    """Draw on the video where words of the prompt are looked at from, and make masks of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTTokenHeatmap",
            display_name="VDiT Token Heatmap",
            category=f"{sockets.CATEGORY}/look",
            search_aliases=["DAAM", "word heatmap", "cross attention map", "attention mask"],
            description="From where on the video a word of the prompt is looked at: as colours "
            "over the decoded frames, and as a mask over time. Needs words on VDiT Capture.",
            inputs=[
                *sockets.record_inputs(),
                io.Image.Input("frames", tooltip="The decoded video, from VAE Decode."),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words or phrases of the prompt, separated by commas: red circle, "
                    "stripes. The weights of a word's tokens add up. Without clip: numbers of "
                    "tokens, from 0.",
                ),
                io.String.Input(
                    "layers",
                    default="all",
                    tooltip=f"Mean of which captured layers, from 0: {sockets.GRAMMAR}",
                ),
                *sockets.moment_inputs(),
                io.Float.Input(
                    "opacity",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How strong the colours are over the video: 0 leaves it as it is.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Where the soft mask is at least this, the mask is 1, elsewhere 0.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder of the prompt: its tokenizer tells which tokens are "
                    "which word.",
                ),
                io.String.Input(
                    "text",
                    default="",
                    optional=True,
                    tooltip="With clip: the prompt that was sampled, of the branch that is shown.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The frames with the colours over them."),
                io.Mask.Output(
                    "mask", tooltip="Frame by frame, 0 or 1: all words together, thresholded."
                ),
                io.Mask.Output("soft", tooltip="The same from 0 to 1, before the threshold."),
                io.Image.Output("sheet", tooltip="A row of frames for each word."),
                io.String.Output("report", tooltip="The numbers as a table, word by word."),
                sockets.csv_output(),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        record: Record,
        frames: Tensor,
        words: str,
        layers: str,
        step: str,
        branch: str,
        opacity: float,
        threshold: float,
        latent: Latent | None = None,
        clip: Any = None,
        text: str = "",
    ) -> io.NodeOutput:
        data = data_of(record, latent)
        pieces = words_if_given(clip, text)
        tokens = tokens_of(words, text, pieces)
        videos = videos_of(frames, "frames", record, latent)
        at = parse_selection(layers, "layers"), "mean", parse_selection(step, "steps"), branch
        draw = partial(draw_token_heatmap, data, tokens, pieces, opacity=opacity)
        drawn = [
            draw(Chosen(*at, item), videos[item], threshold=threshold)
            for item in captured_items(data)
        ]
        names = "overlay", "mask", "soft", "sheet"
        pictures = [torch.cat([getattr(one, name) for one in drawn]) for name in names]
        report = "\n\n".join(one.report for one in drawn)
        csv = reduce(Table.__add__, (one.table for one in drawn)).csv()
        return io.NodeOutput(*pictures, report, csv, ui=ui.PreviewImage(pictures[-1], cls=cls))


NODES = [VDiTTokenHeatmap]
