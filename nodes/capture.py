"""Nodes that capture attention into a record, save it and load it."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui

from ..vdit_core.host.comfy import attach
from ..vdit_core.pairs import Latent
from ..vdit_core.program import Capture
from ..vdit_core.record import Record, load_record, save_record
from ..vdit_core.selection import parse_selection, parse_where
from . import sockets

_MORE = {
    "sinks": "Also measure what each token receives: column sums, coverage of the most attended "
    "token, norms of the values, and the row entropy of each token.",
    "structure": "Also measure the mass by distance in frames and in the picture.",
    "sparsity": "Also measure the exact quantile at `rate`, the mass below it, the mass kept at "
    "other rates, and the share of keys that hold 95 % of a row's mass. Takes longest.",
}
_FURTHER = {
    "sensitivity": "Also measure how far each layer's attention output moves when its smallest "
    "weights are dropped, at rates from 0.1 to 0.95: for VDiT Sensitivity. Takes several times as "
    "long as the other measurements; a few steps are enough.",
    "temperatures": "Also measure the row entropy at temperatures from 0.25 to 4.",
    "energy": "Also measure the energy of the attention's output, and apart from one another what "
    "each token does within its own frame (spatial) and at its own place over the frames "
    "(temporal): entropy and mass. For VDiT Entropy Plot.",
    "words": "Also keep where on the video each word of the prompt is looked at from, mean of the "
    "captured heads: for VDiT Token Heatmap. Large: 2 bytes × tokens of the video × tokens of the "
    "prompt for each layer, step, branch and video (Wan at 480p, 30 tokens: 2 MB).",
}
_TEXT = (
    "Also measure what each token of the prompt receives: from the video and, where both attend "
    "together, from the text itself. In Wan and LTX-Video, where text enters by attention of its "
    "own, that is measured in the same layers."
)


class VDiTCapture(io.ComfyNode):
    """Measure the attention of a sampling into a record."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTCapture",
            display_name="VDiT Capture",
            category=f"{sockets.CATEGORY}/look",
            search_aliases=["capture attention", "attention probe", "attention maps"],
            description="Measure self-attention while the model samples: pooled maps, row "
            "entropy and log-sum-exp of chosen layers, heads and steps. The video is not changed. "
            "Edits before or after this node are seen as they act. The full map is never built.",
            inputs=[
                io.Model.Input("model", tooltip="The model to watch; the input stays as it is."),
                sockets.layers_input(),
                sockets.heads_input(),
                io.String.Input(
                    "steps",
                    default="mid",
                    tooltip=f"Which steps, from 0: {sockets.GRAMMAR} One step half-way stands "
                    "well for a head, the first does not.",
                ),
                sockets.branch_input(),
                io.Int.Input(
                    "map_size",
                    default=64,
                    min=8,
                    max=512,
                    tooltip="Maps are averaged over blocks to at most this many rows and columns.",
                ),
                *(
                    io.Boolean.Input(name, default=False, optional=True, tooltip=meaning)
                    for name, meaning in _MORE.items()
                ),
                io.Float.Input(
                    "tau",
                    default=0.3,
                    min=0.01,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="sinks: a weight counts as heavy from here on. Our choice; the paper "
                    "gives no number.",
                ),
                io.Float.Input(
                    "rate",
                    default=0.7,
                    min=0.01,
                    max=0.99,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="sparsity: the share of the weights whose loss is measured.",
                ),
                io.String.Input(
                    "frames",
                    default="all",
                    optional=True,
                    advanced=True,
                    tooltip="Zoom: which latent frames the maps show, one run of them (0 or 2-4). "
                    "Fewer frames are shown finer, up to single tokens.",
                ),
                sockets.Record.Input(
                    "record",
                    optional=True,
                    tooltip="To go on with a record: that of the VDiT Capture on the first "
                    "sampler's model, where two samplers share one schedule (Wan 2.2: high noise, "
                    "then low noise). The result holds both, its steps counted over the whole "
                    "schedule.",
                ),
                io.Boolean.Input("text", default=False, optional=True, tooltip=_TEXT),
                *(
                    io.Boolean.Input(name, default=False, optional=True, tooltip=meaning)
                    for name, meaning in _FURTHER.items()
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The watched model, for a sampler."),
                sockets.Record.Output("record", tooltip="What was measured, once it is sampled."),
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # two nodes with equal inputs need a mailbox each
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        layers: str,
        heads: str,
        steps: str,
        branch: str,
        map_size: int,
        sinks: bool = False,
        structure: bool = False,
        sparsity: bool = False,
        tau: float = 0.3,
        rate: float = 0.7,
        frames: str = "all",
        record: Record | None = None,
        text: bool = False,
        sensitivity: bool = False,
        temperatures: bool = False,
        energy: bool = False,
        words: bool = False,
    ) -> io.NodeOutput:
        filled = Record()
        chosen, at = parse_where(layers, heads), parse_selection(steps, "steps")
        asked = {"sinks": sinks, "structure": structure, "sparsity": sparsity, "text": text}
        asked |= {"sensitivity": sensitivity, "temperatures": temperatures}
        asked |= {"energy": energy, "words": words}
        more = tuple(name for name, wanted in asked.items() if wanted)
        shown = None if frames.strip() == "all" else parse_selection(frames, "frames")
        asker = sockets.asker(cls)
        spec = Capture(asker, chosen, at, filled, branch, map_size, more, shown, tau, rate, record)
        return io.NodeOutput(attach(model, spec), filled)


class VDiTSaveRecord(io.ComfyNode):
    """Write a record to the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTSaveRecord",
            display_name="VDiT Save Record",
            category=f"{sockets.CATEGORY}/look",
            search_aliases=["save attention record"],
            description="Save a record as a safetensors file in the output folder, with all "
            "labels as JSON in its header. Figures can be drawn again from it without sampling.",
            inputs=[
                sockets.Record.Input("record", tooltip="From VDiT Capture."),
                io.Latent.Input(
                    "latent",
                    tooltip="The sampler's output, so that this node runs after the sampling.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="vdit/record",
                    tooltip="Folder and beginning of the file name, in ComfyUI's output folder.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, record: Record, latent: Latent, filename_prefix: str) -> io.NodeOutput:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path = Path(folder) / f"{name}_{counter:05}_.safetensors"
        save_record(record.data, path)
        size = path.stat().st_size / 1e6
        return io.NodeOutput(ui=ui.PreviewText(f"saved {path.name} ({size:.1f} MB)"))


class VDiTLoadRecord(io.ComfyNode):
    """Read a record from the output or input folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTLoadRecord",
            display_name="VDiT Load Record",
            category=f"{sockets.CATEGORY}/look",
            search_aliases=["load attention record"],
            description="Load a record saved by VDiT Save Record.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=_record_files(),
                    tooltip="A record in the output or input folder. Press R after saving one.",
                )
            ],
            outputs=[sockets.Record.Output("record", tooltip="The record, for any figure.")],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        if not folder_paths.exists_annotated_filepath(file):
            return f"record: there is no file {file!r}; choose another, or press R to look again"
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        stat = Path(folder_paths.get_annotated_filepath(file)).stat()
        return f"{file} {stat.st_mtime_ns} {stat.st_size}"

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(Record(load_record(Path(folder_paths.get_annotated_filepath(file)))))


def _record_files() -> list[str]:
    """Records by their annotated names, as ComfyUI writes them: `vdit/record_00001_… [output]`."""
    found: list[str] = []
    places = {
        "output": Path(folder_paths.get_output_directory()) / "vdit",
        "input": Path(folder_paths.get_input_directory()),
    }
    for kind, place in places.items():
        root = place.parent if kind == "output" else place
        for path in sorted(place.rglob("*.safetensors")):
            found.append(f"{path.relative_to(root).as_posix()} [{kind}]")
    return found


NODES = [VDiTCapture, VDiTSaveRecord, VDiTLoadRecord]
