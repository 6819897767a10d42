"""The node that shows entropy and energy by layer, and tells the top share from the bottom one."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..vdit_core.entropy import QUANTITIES, levels_of
from ..vdit_core.figures.entropy import draw_entropy
from ..vdit_core.figures.origin import data_of
from ..vdit_core.pairs import Latent
from ..vdit_core.ranking import GRANULARITIES
from ..vdit_core.record import Record
from ..vdit_core.selection import parse_selection
from . import sockets


class VDiTEntropyPlot(io.ComfyNode):
    """Draw entropy or energy of each layer, and give its two halves."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTEntropyPlot",
            display_name="VDiT Entropy Plot",
            category=f"{sockets.CATEGORY}/study",
            search_aliases=["entropy per layer", "attention energy", "spatial temporal attention"],
            description="Entropy of each layer's map and energy of its output: by step, by head, "
            "and as proportions; the layers or heads of the highest and of the lowest share, for "
            "any node that takes them. (arXiv 2504.12027, Fig. 4; spatial and temporal parts of "
            "attention over all frames: our reading)",
            inputs=[
                *sockets.record_inputs(),
                io.Combo.Input(
                    "quantity",
                    options=list(QUANTITIES),
                    default="entropy share",
                    tooltip="What to draw and to rank by. energy, spatial and temporal need energy "
                    "on VDiT Capture; text entropy needs text there, and a model with "
                    "cross-attention (Wan, LTX-Video).",
                ),
                io.Float.Input(
                    "share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How many of the layers (or heads) each end has: 0.5 is the paper's "
                    "split in two halves. Rounded down, at least one; 0 is none.",
                ),
                io.Combo.Input(
                    "granularity",
                    options=list(GRANULARITIES),
                    default="layers",
                    tooltip="layers: whole layers, by the mean of their heads. heads: single "
                    "heads, ranked over all layers.",
                ),
                io.String.Input(
                    "steps",
                    default="all",
                    tooltip="Which captured steps to average, from 0: all, or numbers and ranges.",
                ),
                sockets.branch_input(),
            ],
            outputs=[
                io.Image.Output(tooltip="Layers by steps or heads, their ranges, and proportions."),
                io.String.Output("report", tooltip="The numbers as a table, layer by layer."),
                sockets.Heads.Output("high", tooltip="The heads of the highest share."),
                io.String.Output("high_text", tooltip="The same heads as text."),
                sockets.Heads.Output("low", tooltip="The heads of the lowest share."),
                io.String.Output("low_text", tooltip="The same heads as text."),
                io.String.Output(
                    "high_layers",
                    tooltip="The layers of the highest share, for `layers` of any edit. Whole "
                    "layers, also where granularity is heads.",
                ),
                io.String.Output("low_layers", tooltip="The layers of the lowest share, likewise."),
                sockets.csv_output(),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        record: Record,
        quantity: str,
        share: float,
        granularity: str,
        steps: str,
        branch: str,
        latent: Latent | None = None,
    ) -> io.NodeOutput:
        data = data_of(record, latent)
        levels = levels_of(data, quantity, parse_selection(steps, "steps"), branch)
        drawn = draw_entropy(levels, share, granularity)
        heads = drawn.high, drawn.high, drawn.low, drawn.low
        texts = *heads, drawn.high_layers, drawn.low_layers, drawn.table.csv()
        preview = ui.PreviewImage(drawn.image, cls=cls)
        return io.NodeOutput(drawn.image, drawn.report, *texts, ui=preview)


NODES = [VDiTEntropyPlot]
