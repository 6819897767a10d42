"""The types that travel between our nodes, and what many share: inputs, pictures, and the edit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui

from ..vdit_core.edits import Change
from ..vdit_core.figures.statistics import Statistics
from ..vdit_core.figures.table import Table
from ..vdit_core.host.comfy import attach
from ..vdit_core.plan import REGIONS
from ..vdit_core.program import Asker, Edit, Window
from ..vdit_core.ranking import Ranked
from ..vdit_core.selection import HeadList
from ..vdit_core.sites import BRANCHES

CATEGORY = "VDiT Attention"
Record = io.Custom("VDIT_RECORD")
Source = io.Custom("VDIT_SOURCE")
Heads = io.Custom("VDIT_HEADS")  # its value is the text that `parse_heads` reads

GRAMMAR = (
    "all, none, mid, numbers and ranges (0,3,19-21), counted from the end (-1, -4--1), "
    "excluded with ! (!44 is all but layer 44)."
)


def layers_input(default: str = "all") -> io.String.Input:
    return io.String.Input("layers", default=default, tooltip=f"Which layers, from 0: {GRAMMAR}")


def layer_input() -> io.String.Input:
    """Of those that a record holds, to draw; `layers_input` is of those that a model has."""
    return io.String.Input(
        "layer", default="all", tooltip=f"Which captured layers, from 0: {GRAMMAR}"
    )


def heads_input() -> io.String.Input:
    return io.String.Input(
        "heads", default="all", tooltip=f"Which heads of each chosen layer, from 0: {GRAMMAR}"
    )


def head_list_input(default: str, tooltip: str) -> io.MultiType.Input:
    """Heads of several layers: typed, or by a wire from a node that finds some."""
    return io.MultiType.Input(io.String.Input("heads", default=default, tooltip=tooltip), [Heads])


def head_list_outputs(meaning: str) -> list[io.Output]:
    return [
        Heads.Output("heads", tooltip=meaning),
        io.String.Output("text", tooltip="The same heads as text, to read, keep and type in."),
    ]


def window_inputs() -> list[io.Float.Input]:
    def percent(name: str, default: float, meaning: str) -> io.Float.Input:
        return io.Float.Input(
            name, default=default, min=0.0, max=1.0, step=0.01, advanced=True, tooltip=meaning
        )

    return [
        percent("start_percent", 0.0, "Where in the schedule it begins: 0 is the first step."),
        percent("end_percent", 1.0, "Where in the schedule it ends: 1 is after the last step."),
    ]


def branch_input() -> io.Combo.Input:
    return io.Combo.Input(
        "branch",
        options=list(BRANCHES),
        default="both",
        advanced=True,
        tooltip="Guidance runs the model twice: with the positive prompt (cond) and with the "
        "negative one (uncond). Which of the two is meant.",
    )


def region_input(optional: bool = True) -> io.Combo.Input:
    """Optional where it came later: workflows saved before do not name it."""
    return io.Combo.Input(
        "region",
        options=list(REGIONS),
        default="all",
        optional=optional,
        advanced=True,
        tooltip="all: the whole attention map. video→video: only how the video attends to itself, "
        "in models where video and text attend together (Mochi, HunyuanVideo, CogVideoX); text "
        "keeps its map. Wan's self-attention holds video only: use all.",
    )


def strength_input(meaning: str) -> io.Float.Input:
    return io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.05, tooltip=meaning)


def record_inputs() -> list[io.Input]:
    """The record, and what makes its reader wait for the sampling."""
    return [
        Record.Input("record", tooltip="From VDiT Capture or VDiT Load Record."),
        io.Latent.Input(
            "latent",
            optional=True,
            tooltip="After a capture: the sampler's output, so that this node runs after the "
            "sampling. For a loaded record: leave it open.",
        ),
    ]


def moment_inputs() -> list[io.Input]:
    """When and for whom."""
    return [
        io.String.Input(
            "step",
            default="mid",
            tooltip="Which captured step, from 0. mid: the one nearest to the middle.",
        ),
        io.Combo.Input(
            "branch",
            options=list(BRANCHES),
            default="both",
            advanced=True,
            tooltip="The call with the positive prompt (cond) or with the negative one (uncond). "
            "both: cond if it was captured.",
        ),
    ]


def judge_inputs() -> list[io.Input]:
    """Measures that need weights of their own; without them they are left out."""
    return [
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="From Load CLIP Vision: adds how alike the videos' frames, and each video's "
            "neighbouring frames, are to CLIP (cosine of image features).",
        ),
        io.Boolean.Input(
            "lpips",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Adds LPIPS, the distance by AlexNet's features. Needs two files in "
            "models/lpips; nothing is downloaded: an error says which files and where they are.",
        ),
        io.Clip.Input(
            "clip",
            optional=True,
            tooltip="With clip_vision and prompt: how well each video agrees with the prompt "
            "(cosine of the frames' and the prompt's CLIP features, mostly 0 to 0.4). The text "
            "encoder of the very CLIP model that clip_vision is of, with its text_projection; not "
            "the T5 or UMT5 of a video model. We have checked this with random weights only.",
        ),
        io.String.Input(
            "prompt",
            default="",
            optional=True,
            tooltip="With clip and clip_vision: what the videos should show. CLIP reads about the "
            "first 75 tokens. Empty: not measured.",
        ),
    ]


def csv_output() -> io.String.Output:
    return io.String.Output(
        "csv",
        tooltip="Every number with its labels, as comma-separated values: core's Save Text writes "
        "them to a file for a spreadsheet or a paper.",
    )


def drawn_outputs() -> list[io.Output]:
    return [
        io.Image.Output(tooltip="The picture, one for each video of the batch."),
        io.String.Output("report", tooltip="The numbers as a table, layer by layer."),
        csv_output(),
    ]


def drawn(node: type[io.ComfyNode], videos: Sequence[Statistics]) -> io.NodeOutput:
    """What goes into `drawn_outputs`: of each video a picture, which is shown, report and table."""
    image, report = torch.cat([d.image for d in videos]), "\n\n".join(d.report for d in videos)
    table = reduce(Table.__add__, (d.table for d in videos))
    return io.NodeOutput(image, report, table.csv(), ui=ui.PreviewImage(image, cls=node))


def asker(node: type[io.ComfyNode]) -> Asker:
    """The node as it is called in messages, and where to show them."""
    return Asker(node.define_schema().display_name, node.hidden.unique_id)


def edited(
    node: type[io.ComfyNode],
    model: ModelPatcher,
    change: Change,
    where: HeadList,
    start_percent: float,
    end_percent: float,
    branch: str,
    ranked: Ranked | None = None,
    remark: str = "",
) -> io.NodeOutput:
    """What every edit node puts out: the model with one change more. See Edit for the rest."""
    window = Window(start_percent, end_percent)
    spec = Edit(asker(node), change, where, window, branch, ranked, remark)
    return io.NodeOutput(attach(model, spec))
