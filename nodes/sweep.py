"""Nodes for a layer study: an edit in one layer after the other, and what each has changed."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import folder_paths
from comfy.clip_vision import ClipVisionModel
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy_api.latest import io, ui
from torch import Tensor

from ..vdit_core.figures.sweep_measures import MEASURES
from ..vdit_core.figures.sweep_report import Asked, report_sweep
from ..vdit_core.host.comfy import layout_of, program_of
from ..vdit_core.host.judges import judges
from ..vdit_core.host.kept import swept
from ..vdit_core.selection import parse_selection
from ..vdit_core.sweep import OPERATIONS, sweep
from . import sockets

Given = TypeVar("Given")


class VDiTLayerSweep(io.ComfyNode):
    """The same edits in one layer after the other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTLayerSweep",
            display_name="VDiT Layer Sweep",
            category=f"{sockets.CATEGORY}/study",
            search_aliases=["layer sweep", "layer study", "ablate layers", "one layer at a time"],
            description="Take the edits of a model (temperature, skipped heads, perturbed maps, "
            "sparsity, transfer, hidden text) and put out the model many times: with the edits in "
            "one layer only, then in the next. The sampler behind it runs once for each. Finished "
            "ones are kept, so that a sweep that was broken off goes on. (arXiv 2504.10317, "
            "Fig. 5, 7, 8)",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model with the edits to sweep, their layers set to all."
                ),
                sockets.layers_input(),
                io.Combo.Input(
                    "operation",
                    options=list(OPERATIONS),
                    default=OPERATIONS[0],
                    tooltip="one layer at a time: the edits act in that layer alone. all but one: "
                    "they act in all layers they name but that one.",
                ),
                io.Boolean.Input(
                    "baseline",
                    default=True,
                    tooltip="First of all, the model without the edits, to compare with.",
                ),
                io.Boolean.Input(
                    "resume",
                    default=True,
                    tooltip="Keep each finished latent as a file, and take it from there when the "
                    "very same sampling is asked for again. A model watched by VDiT Capture is "
                    "always sampled.",
                ),
                io.String.Input(
                    "folder",
                    default="vdit/sweep",
                    advanced=True,
                    tooltip="Where finished latents are kept, in ComfyUI's output folder. Delete "
                    "it when the study is done; they are small.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    is_output_list=True, tooltip="One model for each layer, for a sampler."
                ),
                io.String.Output(
                    "labels", is_output_list=True, tooltip="What each is, for VDiT Sweep Report."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        layers: str,
        operation: str,
        baseline: bool,
        resume: bool,
        folder: str,
    ) -> io.NodeOutput:
        chosen, layout = parse_selection(layers, "layers"), layout_of(model)
        entries = sweep(program_of(model), chosen, operation, baseline, layout)
        place = _kept_in(folder) if resume else None
        models = swept(model, entries, sockets.asker(cls), place)
        return io.NodeOutput(models, [entry.label for entry in entries])


class VDiTSweepReport(io.ComfyNode):
    """Which layer has changed the video most?"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTSweepReport",
            display_name="VDiT Sweep Report",
            category=f"{sockets.CATEGORY}/study",
            search_aliases=[
                "layer ranking",
                "sweep grid",
                "sensitivity sweep",
                "sparsity schedule",
            ],
            description="Show the videos of a sweep below each other, rank the layers by how far "
            "each video is from the reference, and write a schedule that spares the first ones.",
            inputs=[
                io.Image.Input("videos", tooltip="The videos of the sweep, from VAE Decode."),
                io.String.Input(
                    "labels", force_input=True, tooltip="The labels of VDiT Layer Sweep."
                ),
                io.Combo.Input(
                    "measure",
                    options=list(MEASURES),
                    default="difference",
                    tooltip="What change means. difference: mean |a − b| of 255. PSNR: root mean "
                    "square of a − b, of 255, which orders as PSNR does. SSIM: 1 − SSIM. "
                    "consistency, sharpness, colourfulness: how far the video's own moves, up or "
                    "down. LPIPS needs the switch lpips, CLIP (1 − cosine) clip_vision; prompt "
                    "agreement (how far it moves) needs clip_vision, clip and prompt.",
                ),
                io.Int.Input(
                    "spare",
                    default=2,
                    min=0,
                    max=1000,
                    tooltip="How many layers the schedule spares: those that rank first.",
                ),
                io.Float.Input(
                    "value",
                    default=0.7,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="schedule: the value of the other layers.",
                ),
                io.Float.Input(
                    "spared_value",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="schedule: the value that leaves a layer as it is. 0 for sparsity, 1 "
                    "for temperature.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="What to compare with. Left open: the video labelled none.",
                ),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip="The source video of a transfer sweep: each layer is then also placed "
                    "between source and reference.",
                ),
                *sockets.judge_inputs(),
            ],
            outputs=[
                io.Image.Output("grid", tooltip="Every video as a strip, with label and change."),
                io.Image.Output("ranking", tooltip="The change by layer; source against target."),
                io.String.Output("report", tooltip="The numbers as a table, and the schedule."),
                sockets.csv_output(),
                io.String.Output(
                    "schedule",
                    tooltip="Such as all=0.7; 2,5=0, for the schedule of VDiT Sparsity.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        videos: list[Tensor],
        labels: list[str],
        measure: list[str],
        spare: list[int],
        value: list[float],
        spared_value: list[float],
        reference: list[Tensor] | None = None,
        source: list[Tensor] | None = None,
        clip_vision: list[ClipVisionModel] | None = None,
        lpips: list[bool] | None = None,
        clip: list[CLIP] | None = None,
        prompt: list[str] | None = None,
    ) -> io.NodeOutput:
        asked = Asked(measure[0], spare[0], value[0], spared_value[0])
        given = judges(_one(clip_vision), bool(_one(lpips)), _one(clip), _one(prompt) or "")
        found = report_sweep(videos, labels, asked, _one(reference), _one(source), given)
        preview = ui.PreviewImage(found.ranking, cls=cls)
        texts = found.report, found.table.csv(), found.schedule
        return io.NodeOutput(found.grid, found.ranking, *texts, ui=preview)


def _kept_in(folder: str) -> Path:
    """A folder inside ComfyUI's output folder. Raises ValueError for one outside."""
    output = Path(folder_paths.get_output_directory()).resolve()
    place = (output / folder.strip()).resolve()
    if not folder.strip() or place == output or not place.is_relative_to(output):
        raise ValueError(
            f"folder: {folder!r} must name a folder inside ComfyUI's output folder, such as "
            "vdit/sweep"
        )
    return place


def _one(given: list[Given] | None) -> Given | None:
    """The first of a list of one input; a list that a sweep made holds it many times."""
    return given[0] if given else None


NODES = [VDiTLayerSweep, VDiTSweepReport]
