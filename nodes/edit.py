"""Nodes that change attention: temperature, skipped heads, perturbed maps, sparsity."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..vdit_core.edits.gate import Skip
from ..vdit_core.edits.perturb import MAPS, Perturb
from ..vdit_core.edits.sparsity import MODES, Sparsify
from ..vdit_core.edits.temperature import Temperature
from ..vdit_core.host.comfy import layer_count
from ..vdit_core.selection import parse_heads, parse_values, parse_where
from . import sockets


class VDiTTemperature(io.ComfyNode):
    """softmax(S / T) in chosen layers and heads."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTTemperature",
            display_name="VDiT Temperature",
            category=f"{sockets.CATEGORY}/edit",
            search_aliases=["attention temperature", "sharpen attention", "flatten attention"],
            description="Sharpen or flatten self-attention: the scores are divided by the "
            "temperature before the softmax. Below 1 each token looks at fewer places, above 1 at "
            "more. Several of these multiply. (arXiv 2504.10317, §4.2)",
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input stays as it is."),
                io.Float.Input(
                    "temperature",
                    default=0.7,
                    min=0.01,
                    max=100.0,
                    step=0.05,
                    tooltip="1 changes nothing, below 1 is sharper, above 1 flatter.",
                ),
                sockets.layers_input(),
                sockets.heads_input(),
                *sockets.window_inputs(),
                sockets.branch_input(),
                sockets.region_input(),
                io.String.Input(
                    "schedule",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Another temperature for some layers: all=0.8; 44,45=1. Later entries "
                    "win; layers it does not name take `temperature`. Empty: the same for all.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with this temperature, for a sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        temperature: float,
        layers: str,
        heads: str,
        start_percent: float,
        end_percent: float,
        branch: str,
        region: str = "all",
        schedule: str = "",
    ) -> io.NodeOutput:
        each = parse_values(schedule).resolve(layer_count(model), temperature)
        change, where = Temperature(temperature, region, each), parse_where(layers, heads)
        return sockets.edited(cls, model, change, where, start_percent, end_percent, branch)


class VDiTSkipHeads(io.ComfyNode):
    """Zero the output of chosen heads."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTSkipHeads",
            display_name="VDiT Skip Heads",
            category=f"{sockets.CATEGORY}/edit",
            search_aliases=["skip heads", "remove sink heads", "zero heads", "ablate heads"],
            description="Leave chosen self-attention heads out: their output is zero and they are "
            "not computed. The paper does this to attention sinks. (arXiv 2504.10317, §5.1)",
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input stays as it is."),
                sockets.head_list_input(
                    "-1:0",
                    "layer:head pairs, separated by semicolons. 46:* is all of layer 46; "
                    "44:3,5 two heads of layer 44; -1:0 the first head of the last layer; "
                    "none skips nothing. Or a wire from VDiT Detect Sinks or VDiT Random Heads.",
                ),
                *sockets.window_inputs(),
                sockets.branch_input(),
                sockets.region_input(),
            ],
            outputs=[io.Model.Output(tooltip="The model without these heads, for a sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        heads: str,
        start_percent: float,
        end_percent: float,
        branch: str,
        region: str = "all",
    ) -> io.NodeOutput:
        where = parse_heads(heads)
        return sockets.edited(cls, model, Skip(region), where, start_percent, end_percent, branch)


class VDiTPerturb(io.ComfyNode):
    """Mix the attention map with the identity or the uniform map."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTPerturb",
            display_name="VDiT Perturb Attention",
            category=f"{sockets.CATEGORY}/edit",
            search_aliases=["perturb attention", "identity attention", "uniform attention", "PAG"],
            description="Replace the attention map A of chosen layers, in full or in part, by the "
            "identity (each token looks at itself) or the uniform map (each token looks at all "
            "alike), to see what a layer is for. (arXiv 2504.12027, Fig. 1, 2, 5)",
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input stays as it is."),
                io.Combo.Input(
                    "map",
                    options=list(MAPS),
                    default="identity",
                    tooltip="identity: each token sees only itself. uniform: each token sees the "
                    "mean of all.",
                ),
                sockets.strength_input(
                    "s in (1 − s) · A + s · map: 0 changes nothing, 1 replaces the map."
                ),
                sockets.layers_input("mid"),
                sockets.heads_input(),
                *sockets.window_inputs(),
                sockets.branch_input(),
                sockets.region_input(),
            ],
            outputs=[io.Model.Output(tooltip="The perturbed model, for a sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        map: str,
        strength: float,
        layers: str,
        heads: str,
        start_percent: float,
        end_percent: float,
        branch: str,
        region: str = "all",
    ) -> io.NodeOutput:
        change, where = Perturb(map, strength, region), parse_where(layers, heads)
        return sockets.edited(cls, model, change, where, start_percent, end_percent, branch)


class VDiTSparsity(io.ComfyNode):
    """Drop the smallest attention weights, or the lightest blocks of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTSparsity",
            display_name="VDiT Sparsity",
            category=f"{sockets.CATEGORY}/edit",
            search_aliases=["sparse attention", "attention sparsity", "quantile mask", "prune"],
            description="Drop the smallest weights of each head's map, to see what a layer can do "
            "without. exact and exact two-run show what could be dropped and save no time (two-run "
            "takes twice as long); block drops whole blocks and is faster on long videos. The node "
            "says what was dropped, layer by layer. (arXiv 2504.10317, §4.1)",
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input stays as it is."),
                io.Float.Input(
                    "sparsity",
                    default=0.7,
                    min=0.0,
                    max=0.99,
                    step=0.05,
                    tooltip="The share of each head's weights (of its blocks, in block mode) that "
                    "is dropped; 0 changes nothing.",
                ),
                sockets.layers_input(),
                sockets.heads_input(),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="exact",
                    tooltip="exact: below the quantile of this very map. exact two-run: the model "
                    "runs dense first, which gives the quantiles (the paper's way). block: blocks "
                    "of least mass are left out and not computed.",
                ),
                io.Boolean.Input(
                    "renormalize",
                    default=True,
                    tooltip="Whether the weights that stay are scaled up to sum to 1 again. The "
                    "paper does not say; block mode always does.",
                ),
                io.String.Input(
                    "schedule",
                    default="",
                    tooltip="Another sparsity for some layers: all=0.7; 44,45=0. Later entries "
                    "win; layers it does not name take `sparsity`. Empty: the same for all.",
                ),
                *sockets.window_inputs(),
                sockets.branch_input(),
                io.Int.Input(
                    "block_size",
                    default=64,
                    min=8,
                    max=512,
                    advanced=True,
                    tooltip="block mode: tokens along each side of a block. Larger is faster, "
                    "smaller loses less.",
                ),
                io.Int.Input(
                    "reuse_steps",
                    default=4,
                    min=1,
                    max=1000,
                    advanced=True,
                    tooltip="block mode: for how many steps a choice of blocks serves. Choosing "
                    "costs as much as dense attention, on a CPU about twice that.",
                ),
                sockets.region_input(),
            ],
            outputs=[io.Model.Output(tooltip="The sparse model, for a sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        sparsity: float,
        layers: str,
        heads: str,
        mode: str,
        renormalize: bool,
        schedule: str,
        start_percent: float,
        end_percent: float,
        branch: str,
        block_size: int,
        reuse_steps: int,
        region: str = "all",
    ) -> io.NodeOutput:
        rates = parse_values(schedule).resolve(layer_count(model), sparsity)
        whole = renormalize or mode == "block"
        change = Sparsify(rates, mode, whole, block_size, reuse_steps, region)
        where = parse_where(layers, heads)
        return sockets.edited(cls, model, change, where, start_percent, end_percent, branch)


NODES = [VDiTTemperature, VDiTSkipHeads, VDiTPerturb, VDiTSparsity]
