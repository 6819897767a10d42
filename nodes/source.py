"""Nodes that keep queries and keys, and use their maps later, in this sampling or in others."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import comfy.model_management
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..vdit_core.edits.freeze import Freeze
from ..vdit_core.edits.replay import Replay
from ..vdit_core.host.comfy import attach
from ..vdit_core.pairs import Latent
from ..vdit_core.program import Keep, Window
from ..vdit_core.selection import parse_where
from ..vdit_core.sources import DTYPES, HEADER, Folder, Memory, Shelf, Source, load_source
from . import sockets

PLACES = ("memory", "disk")


class VDiTRecordSource(io.ComfyNode):
    """Keep queries and keys of a sampling, so that others can use its maps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTRecordSource",
            display_name="VDiT Record Source",
            category=f"{sockets.CATEGORY}/transfer",
            search_aliases=["record attention source", "keep QK", "attention injection"],
            description="Keep the queries and keys of chosen layers while a video is sampled, "
            "which it does not change. VDiT Replay Source uses its attention maps in any number of "
            "later samplings. How much it keeps is said on this node before anything is kept, and "
            "refused if there is no room. (arXiv 2504.10317, §3.1)",
            inputs=[
                io.Model.Input("model", tooltip="The model of the source; it stays as it is."),
                sockets.layers_input(),
                sockets.heads_input(),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="bf16",
                    tooltip="How numbers are kept. bf16 takes half of fp32; a float32 model's "
                    "replay is exact only with fp32.",
                ),
                io.Combo.Input(
                    "place",
                    options=list(PLACES),
                    default="memory",
                    tooltip="memory: in RAM, until ComfyUI ends. disk: in a folder of the output "
                    "folder, which VDiT Load Source opens again.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="vdit/source",
                    tooltip="disk: where in the output folder, and how the folder's name begins.",
                ),
                *sockets.window_inputs(),
                sockets.branch_input(),
            ],
            outputs=[
                io.Model.Output(tooltip="The model that keeps, for the source's sampler."),
                sockets.Source.Output("source", tooltip="What was kept, once it is sampled."),
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # or two nodes with equal inputs would share one source
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        layers: str,
        heads: str,
        dtype: str,
        place: str,
        filename_prefix: str,
        start_percent: float,
        end_percent: float,
        branch: str,
    ) -> io.NodeOutput:
        source, window = Source(_shelf(place, filename_prefix)), Window(start_percent, end_percent)
        where = parse_where(layers, heads)
        spec = Keep(sockets.asker(cls), where, source, window, branch, dtype)
        return io.NodeOutput(attach(model, spec), source)


class VDiTLoadSource(io.ComfyNode):
    """Open a source that was kept on disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTLoadSource",
            display_name="VDiT Load Source",
            category=f"{sockets.CATEGORY}/transfer",
            search_aliases=["load attention source"],
            description="Open a source that VDiT Record Source kept on disk. What it holds is read "
            "while it is used, a little ahead.",
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=_folders(),
                    tooltip="A source in the output folder. Press R after recording one.",
                )
            ],
            outputs=[sockets.Source.Output("source", tooltip="For VDiT Replay Source.")],
        )

    @classmethod
    def validate_inputs(cls, folder: str) -> bool | str:
        if folder not in _folders():
            return f"source: there is no {folder!r}; choose another, or press R to look again"
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str) -> str:
        return f"{folder} {(_output() / folder / HEADER).stat().st_mtime_ns}"

    @classmethod
    def execute(cls, folder: str) -> io.NodeOutput:
        return io.NodeOutput(load_source(_output() / folder))


class VDiTReplaySource(io.ComfyNode):
    """Use the attention maps of a source kept earlier."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTReplaySource",
            display_name="VDiT Replay Source",
            category=f"{sockets.CATEGORY}/transfer",
            search_aliases=["replay attention", "attention injection", "prompt to prompt"],
            description="Sample with the attention maps of a source kept by VDiT Record Source, as "
            "VDiT Transfer does within a pair, without sampling the source again. Sampler, steps, "
            "scheduler, shift, size and model must be the source's; the seed should be. (arXiv "
            "2504.10317, §3.1)",
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input stays as it is."),
                sockets.Source.Input(
                    "source", tooltip="From VDiT Record Source or VDiT Load Source."
                ),
                sockets.layers_input(),
                sockets.heads_input(),
                sockets.strength_input(
                    "s in (1 − s) · own map + s · source map. Between 0 and 1 the chosen layers "
                    "attend twice."
                ),
                sockets.region_input(optional=False),
                *sockets.window_inputs(),
                sockets.branch_input(),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="After VDiT Record Source: the output of the source's sampler, so that "
                    "this node runs after it. For a loaded source: leave it open.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model that replays, for a sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        source: Source,
        layers: str,
        heads: str,
        strength: float,
        region: str,
        start_percent: float,
        end_percent: float,
        branch: str,
        latent: Latent | None = None,
    ) -> io.NodeOutput:
        change, where = Replay(source, strength, region), parse_where(layers, heads)
        return sockets.edited(cls, model, change, where, start_percent, end_percent, branch)


class VDiTFreezeHeads(io.ComfyNode):
    """Heads keep the map of one step for the steps after it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTFreezeHeads",
            display_name="VDiT Freeze Heads",
            category=f"{sockets.CATEGORY}/edit",
            search_aliases=["freeze attention", "freeze maps", "keep attention map"],
            description="From the step after the pivot on, chosen heads keep the attention map of "
            "the pivot step of this very sampling: who looks at whom is settled there, what is "
            "seen goes on changing.",
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input stays as it is."),
                io.Int.Input(
                    "pivot_step",
                    default=4,
                    min=0,
                    max=9999,
                    tooltip="The step whose map is kept, from 0; at least one step must follow.",
                ),
                sockets.layers_input(),
                sockets.heads_input(),
                sockets.strength_input("s in (1 − s) · own map + s · map of the pivot step."),
                sockets.region_input(optional=False),
                sockets.window_inputs()[1],
                sockets.branch_input(),
            ],
            outputs=[io.Model.Output(tooltip="The model with frozen heads, for a sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        pivot_step: int,
        layers: str,
        heads: str,
        strength: float,
        region: str,
        end_percent: float,
        branch: str,
    ) -> io.NodeOutput:
        change, where = Freeze(pivot_step, strength, region), parse_where(layers, heads)
        return sockets.edited(cls, model, change, where, 0.0, end_percent, branch)


def _shelf(place: str, prefix: str) -> Shelf:
    if place == "memory":
        return Memory(_free_memory)
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, str(_output()))
    return Folder(Path(folder) / f"{name}_{counter:05}_")


def _free_memory() -> int:
    return cast(int, comfy.model_management.get_free_memory(torch.device("cpu")))


def _folders() -> list[str]:
    found = sorted((_output() / "vdit").rglob(HEADER))
    return [path.parent.relative_to(_output()).as_posix() for path in found]


def _output() -> Path:
    return Path(folder_paths.get_output_directory())


NODES = [VDiTRecordSource, VDiTLoadSource, VDiTReplaySource, VDiTFreezeHeads]
