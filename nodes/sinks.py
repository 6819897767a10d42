"""Nodes that put out heads: the sinks of a record, and as many others at random."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui

from ..vdit_core.figures.origin import data_of
from ..vdit_core.figures.sinks import VIEWS, draw_sinks, sinks_report, sinks_table
from ..vdit_core.host.comfy import head_counts
from ..vdit_core.pairs import Latent
from ..vdit_core.random_heads import OVER, random_heads
from ..vdit_core.record import Record
from ..vdit_core.selection import parse_heads, parse_selection, write_heads
from ..vdit_core.sinks import find_sinks
from ..vdit_core.sites import BRANCHES
from . import sockets


class VDiTDetectSinks(io.ComfyNode):
    """Find the heads in which most queries look at one token."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTDetectSinks",
            display_name="VDiT Detect Sinks",
            category=f"{sockets.CATEGORY}/look",
            search_aliases=["attention sinks", "sink heads", "find sinks", "value norms"],
            description="Find attention sinks: heads in which over half of the queries look "
            "heavily at one token. Draws how often each head is one, how small the values are "
            "there, and where the sinks lie; puts the heads out for VDiT Skip Heads. Needs sinks "
            "on VDiT Capture. (arXiv 2504.10317, §5, Fig. 9, 11, 12)",
            inputs=[
                *sockets.record_inputs(),
                _share(
                    "weight",
                    0.3,
                    "A weight counts as heavy from here on. It is counted while "
                    "the model samples: set tau on VDiT Capture to the same. Our choice; the "
                    "paper gives no number.",
                ),
                _share(
                    "coverage",
                    0.5,
                    "Above which share of the queries that look heavily at one "
                    "token a head is a sink. The paper: over half.",
                ),
                _share(
                    "frequency",
                    0.5,
                    "In which share of the captured calls (steps × videos × "
                    "branches) a head must be a sink to be put out. Our choice.",
                ),
                io.Combo.Input(
                    "view",
                    options=list(VIEWS),
                    default="heads",
                    tooltip="What to draw. heads: how often each head is a sink. steps: the same "
                    "step by step. values: norms of the values at the token and elsewhere. "
                    "places: where the sinks lie in the picture and in time.",
                ),
                io.String.Input(
                    "steps",
                    default="all",
                    tooltip="Which captured steps count: all, mid (of the schedule), or numbers "
                    "and ranges from 0.",
                ),
                io.Combo.Input(
                    "branch",
                    options=list(BRANCHES),
                    default="both",
                    advanced=True,
                    tooltip="Whether the calls with the positive prompt count (cond), those with "
                    "the negative one (uncond), or both.",
                ),
            ],
            outputs=[
                *sockets.head_list_outputs("The sink heads, for VDiT Skip Heads."),
                io.Image.Output(tooltip="The picture of this view, over all videos."),
                io.String.Output("report", tooltip="The sinks and the heads next to them."),
                sockets.csv_output(),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        record: Record,
        weight: float,
        coverage: float,
        frequency: float,
        view: str,
        steps: str,
        branch: str,
        latent: Latent | None = None,
    ) -> io.NodeOutput:
        sinks = find_sinks(
            data_of(record, latent),
            weight=weight,
            coverage=coverage,
            frequency=frequency,
            steps=parse_selection(steps, "steps"),
            branch=branch,
        )
        image, told = draw_sinks(sinks, view), (sinks_report(sinks), sinks_table(sinks).csv())
        shown = ui.PreviewImage(image, cls=cls)
        return io.NodeOutput(sinks.text, sinks.text, image, *told, ui=shown)


class VDiTRandomHeads(io.ComfyNode):
    """As many other heads as some, at random."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTRandomHeads",
            display_name="VDiT Random Heads",
            category=f"{sockets.CATEGORY}/study",
            search_aliases=["random control", "random heads", "skip random heads"],
            description="Draw as many heads as are given, none of those: what skipping sinks is "
            "held against. (arXiv 2504.10317, Fig. 10)",
            inputs=[
                io.Model.Input("model", tooltip="Whose layers and heads there are."),
                sockets.head_list_input(
                    "none",
                    "As many others as these: layer:head pairs (46:*; 44:3), or a wire from VDiT "
                    "Detect Sinks.",
                ),
                io.Combo.Input(
                    "over",
                    options=list(OVER),
                    default="each layer",
                    tooltip="each layer: in each layer as many as are given there. all layers: as "
                    "many in all, anywhere.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Another seed draws other heads.",
                ),
            ],
            outputs=sockets.head_list_outputs("The random heads, for VDiT Skip Heads."),
        )

    @classmethod
    def execute(cls, model: ModelPatcher, heads: str, over: str, seed: int) -> io.NodeOutput:
        counts = head_counts(model)
        drawn = random_heads(parse_heads(heads).resolve(counts), counts, over, seed)
        text = write_heads(drawn, counts)
        return io.NodeOutput(text, text)


def _share(name: str, default: float, meaning: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.01, max=1.0, step=0.05, tooltip=meaning)


NODES = [VDiTDetectSinks, VDiTRandomHeads]
