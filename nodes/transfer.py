"""Nodes for transferring attention maps across a pair of prompts."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..vdit_core.edits.transfer import PairTransfer
from ..vdit_core.pairs import Conditioning, Latent, pair_latent, pair_prompts, split_pair
from ..vdit_core.selection import parse_where
from . import sockets


class VDiTPairPrompts(io.ComfyNode):
    """Two prompts as one conditioning: source first, target second."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTPairPrompts",
            display_name="VDiT Pair Prompts",
            category=f"{sockets.CATEGORY}/transfer",
            search_aliases=["prompt pair", "source and target prompt"],
            description="Join two prompts for a sampler that runs source and target side by side. "
            "Use it as the positive input, together with VDiT Pair Latent.",
            inputs=[
                io.Conditioning.Input("source", tooltip="The prompt whose attention is used."),
                io.Conditioning.Input("target", tooltip="The prompt of the edited video."),
            ],
            outputs=[io.Conditioning.Output(tooltip="For the sampler's positive input.")],
        )

    @classmethod
    def execute(cls, source: Conditioning, target: Conditioning) -> io.NodeOutput:
        return io.NodeOutput(pair_prompts(source, target))


class VDiTPairLatent(io.ComfyNode):
    """Every video twice, with the same noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTPairLatent",
            display_name="VDiT Pair Latent",
            category=f"{sockets.CATEGORY}/transfer",
            search_aliases=["same noise twice", "latent pair"],
            description="Put each video of a latent into the batch twice, with the same noise: "
            "one becomes the source, one the edit. Samplers that add fresh noise at each step "
            "(ancestral, SDE) draw it for each video separately; prefer euler, heun or uni_pc.",
            inputs=[io.Latent.Input("latent", tooltip="An empty latent, or one to start from.")],
            outputs=[io.Latent.Output(tooltip="For the sampler's latent_image input.")],
        )

    @classmethod
    def execute(cls, latent: Latent) -> io.NodeOutput:
        return io.NodeOutput(pair_latent(latent))


class VDiTTransfer(io.ComfyNode):
    """The target uses the source's attention map in chosen layers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTTransfer",
            display_name="VDiT Transfer Attention",
            category=f"{sockets.CATEGORY}/transfer",
            search_aliases=["attention transfer", "map transfer", "prompt to prompt", "edit video"],
            description="In a pair of videos, let the second (target prompt) use the "
            "self-attention maps of the first (source prompt): it keeps the source's structure "
            "and motion and takes what it can from its own prompt. Nothing is stored; both come "
            "out together. Needs VDiT Pair Prompts and VDiT Pair Latent. (arXiv 2504.10317, §3.1)",
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input stays as it is."),
                sockets.layers_input(),
                sockets.heads_input(),
                sockets.strength_input(
                    "s in (1 − s) · own map + s · source map. Between 0 and 1 the chosen layers "
                    "attend twice."
                ),
                sockets.region_input(optional=False),
                *sockets.window_inputs(),
                sockets.branch_input(),
            ],
            outputs=[io.Model.Output(tooltip="The model that transfers, for a sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        layers: str,
        heads: str,
        strength: float,
        region: str,
        start_percent: float,
        end_percent: float,
        branch: str,
    ) -> io.NodeOutput:
        change, where = PairTransfer(strength, region), parse_where(layers, heads)
        return sockets.edited(cls, model, change, where, start_percent, end_percent, branch)


class VDiTSplitPair(io.ComfyNode):
    """Take a batch of pairs apart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTSplitPair",
            display_name="VDiT Split Pair",
            category=f"{sockets.CATEGORY}/transfer",
            search_aliases=["unpair latent", "split batch"],
            description="Separate a sampled pair into the source video and the edited video.",
            inputs=[io.Latent.Input("latent", tooltip="The sampler's output.")],
            outputs=[
                io.Latent.Output("source", tooltip="The video of the source prompt."),
                io.Latent.Output("edited", tooltip="The video of the target prompt."),
            ],
        )

    @classmethod
    def execute(cls, latent: Latent) -> io.NodeOutput:
        return io.NodeOutput(*split_pair(latent))


NODES = [VDiTPairPrompts, VDiTPairLatent, VDiTTransfer, VDiTSplitPair]
