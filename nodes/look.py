"""Nodes that draw what a record holds."""

from __future__ import annotations

from functools import partial

import torch
from comfy_api.latest import io, ui

from ..vdit_core.figures import STATISTICS, attention_map, draw_statistic
from ..vdit_core.figures.colours import SCALES
from ..vdit_core.figures.origin import data_of
from ..vdit_core.figures.panels import captured_items
from ..vdit_core.pairs import Latent
from ..vdit_core.record import Record
from ..vdit_core.selection import parse_selection
from . import sockets


class VDiTAttentionMap(io.ComfyNode):
    """Draw captured attention maps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTAttentionMap",
            display_name="VDiT Attention Map",
            category=f"{sockets.CATEGORY}/look",
            search_aliases=["attention map", "show attention", "visualize attention", "heatmap"],
            description="Draw who looks at whom: rows are the places that look, columns the places "
            "looked at, with lines between the frames. Several layers or heads share one sheet "
            "and one colour scale. (arXiv 2504.10317, Fig. 1)",
            inputs=[
                *sockets.record_inputs(),
                sockets.layer_input(),
                io.String.Input(
                    "head",
                    default="mean",
                    tooltip="mean of all captured heads, or a map for each of the heads given, "
                    "from 0: 3, or 0,2, or all.",
                ),
                *sockets.moment_inputs(),
                io.Combo.Input(
                    "scale",
                    options=list(SCALES),
                    default="log",
                    advanced=True,
                    tooltip="log: equal steps of colour are equal ratios, faint patterns show. "
                    "linear: equal steps are equal differences, only the strongest show.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The picture, one for each video of the batch.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        record: Record,
        layer: str,
        head: str,
        step: str,
        branch: str,
        scale: str,
        latent: Latent | None = None,
    ) -> io.NodeOutput:
        data = data_of(record, latent)
        draw = partial(
            attention_map,
            data,
            layers=parse_selection(layer, "layers"),
            head=head,
            step=parse_selection(step, "steps"),
            branch=branch,
            scale=scale,
        )
        image = torch.cat([draw(item=item) for item in captured_items(data)])
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


class VDiTStatistics(io.ComfyNode):
    """Draw one captured statistic of every layer and head."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTStatistics",
            display_name="VDiT Statistics",
            category=f"{sockets.CATEGORY}/look",
            search_aliases=[
                "attention entropy",
                "attention sinks",
                "sparsity per layer",
                "coverage",
            ],
            description="Draw one number of every layer and head as a heat map, or one curve of "
            "every layer, with a table as text. All but the entropy share need a switch of VDiT "
            "Capture. (arXiv 2504.10317, §4 and §5; 2504.12027, Fig. 4)",
            inputs=[
                *sockets.record_inputs(),
                io.Combo.Input(
                    "statistic",
                    options=list(STATISTICS),
                    default="entropy share",
                    tooltip="What to draw. coverage, largest weight and value norm ratio need "
                    "sinks on VDiT Capture; distances need structure; keys for 95 %, threshold and "
                    "mass or rate need sparsity; entropy against temperature needs temperatures; "
                    "output error needs sensitivity.",
                ),
                *sockets.moment_inputs(),
            ],
            outputs=sockets.drawn_outputs(),
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        record: Record,
        statistic: str,
        step: str,
        branch: str,
        latent: Latent | None = None,
    ) -> io.NodeOutput:
        data = data_of(record, latent)
        draw = partial(
            draw_statistic,
            data,
            statistic=statistic,
            step=parse_selection(step, "steps"),
            branch=branch,
        )
        return sockets.drawn(cls, [draw(item=item) for item in captured_items(data)])


NODES = [VDiTAttentionMap, VDiTStatistics]
