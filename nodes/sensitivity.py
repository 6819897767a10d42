"""The node that tells which layers stand sparsity, and writes the schedule."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..vdit_core.figures import draw_sensitivity
from ..vdit_core.figures.origin import data_of
from ..vdit_core.pairs import Latent
from ..vdit_core.record import Record
from ..vdit_core.selection import parse_selection
from ..vdit_core.sensitivity import MOST, TARGETS
from . import sockets


class VDiTSensitivity(io.ComfyNode):
    """Errors of each layer's output by rate, and a schedule from them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTSensitivity",
            display_name="VDiT Sensitivity",
            category=f"{sockets.CATEGORY}/study",
            search_aliases=["layer sensitivity", "sparsity schedule", "which layers to spare"],
            description="From one short probe sampling: how far each layer's attention output "
            "moves when its smallest weights are dropped, and a schedule for VDiT Sparsity made "
            "from that. Needs sensitivity on VDiT Capture. (arXiv 2504.10317, §4.1, Fig. 7)",
            inputs=[
                *sockets.record_inputs(),
                io.Combo.Input(
                    "target",
                    options=list(TARGETS),
                    default="rate",
                    tooltip="What the schedule keeps to. rate: this rate in all layers but those "
                    "that would change by more than `limit`, which are spared. error: in each "
                    "layer as much as keeps its change at `limit`. mass lost: in each layer as "
                    "much as holds `mass_lost` of its mass (needs sparsity on VDiT Capture).",
                ),
                io.Float.Input(
                    "rate",
                    default=0.7,
                    min=0.01,
                    max=MOST,
                    step=0.05,
                    tooltip="The share of the weights to drop, for target rate; with a sweep also "
                    "the rate at which both rankings are compared.",
                ),
                io.Float.Input(
                    "limit",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much a layer's attention output may change, as a share of its "
                    "size: for targets rate and error.",
                ),
                io.Float.Input(
                    "mass_lost",
                    default=0.05,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="For target mass lost: the share of each layer's mass to do without, "
                    "mean of its heads.",
                ),
                io.String.Input(
                    "steps",
                    default="all",
                    tooltip="Which captured steps to average, from 0: all, or numbers and ranges.",
                ),
                sockets.branch_input(),
                io.String.Input(
                    "sweep",
                    optional=True,
                    force_input=True,
                    tooltip="csv of VDiT Sweep Report, to compare this ranking of the layers with "
                    "a full sweep's.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="Changes by layer and rate, and the schedule."),
                io.String.Output("report", tooltip="The numbers as a table, layer by layer."),
                sockets.csv_output(),
                io.String.Output(
                    "schedule", tooltip="For schedule of VDiT Sparsity, such as all=0.7; 2,5=0."
                ),
                io.Float.Output(
                    "error",
                    tooltip="The change of a layer's output under this schedule, as predicted: a "
                    "share, mean of the captured layers.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        record: Record,
        target: str,
        rate: float,
        limit: float,
        mass_lost: float,
        steps: str,
        branch: str,
        latent: Latent | None = None,
        sweep: str | None = None,
    ) -> io.NodeOutput:
        drawn = draw_sensitivity(
            data_of(record, latent),
            target=target,
            rate=rate,
            limit=limit,
            mass_lost=mass_lost,
            step=parse_selection(steps, "steps"),
            branch=branch,
            sweep=sweep,
        )
        results = drawn.image, drawn.report, drawn.table.csv(), drawn.schedule, drawn.error
        return io.NodeOutput(*results, ui=ui.PreviewImage(drawn.image, cls=cls))


NODES = [VDiTSensitivity]
