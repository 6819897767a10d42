"""Nodes for the text in joint attention: fewer words, removed or hidden."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..vdit_core.edits.text import HideText
from ..vdit_core.pairs import Conditioning
from ..vdit_core.prompts import first_tokens
from ..vdit_core.selection import parse_where
from . import sockets


def _tokens_input() -> io.Int.Input:
    return io.Int.Input(
        "tokens",
        default=1,
        min=1,
        max=4096,
        tooltip="How many tokens of the prompt stay, counted from its first. A word is one "
        "token or several.",
    )


class VDiTFirstTextToken(io.ComfyNode):
    """Remove the features of all tokens of a prompt but the first."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTFirstTextToken",
            display_name="VDiT First Text Token",
            category=f"{sockets.CATEGORY}/text",
            search_aliases=["keep first token", "drop text features", "shorten prompt"],
            description="Keep the first tokens of an encoded prompt and remove the features of the "
            "others, everywhere: from attention and from what the model pools. A token's features "
            "already hold something of its neighbours. Compare VDiT Hide Text. (arXiv 2504.10317, "
            "§3.2)",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="From CLIP Text Encode."),
                _tokens_input(),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt with these tokens alone.")],
        )

    @classmethod
    def execute(cls, conditioning: Conditioning, tokens: int) -> io.NodeOutput:
        return io.NodeOutput(first_tokens(conditioning, tokens))


class VDiTHideText(io.ComfyNode):
    """Nothing looks at any token of the prompt but the first."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTHideText",
            display_name="VDiT Hide Text",
            category=f"{sockets.CATEGORY}/text",
            search_aliases=["mask text keys", "text keys", "first text token"],
            description="In chosen layers and heads nothing can look at the tokens of the prompt "
            "after the first ones; what the model pools from the text stays. Needs a model whose "
            "text and video attend together: Mochi, HunyuanVideo, CogVideoX. Compare VDiT First "
            "Text Token. (arXiv 2504.10317, §3.2)",
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input stays as it is."),
                _tokens_input(),
                sockets.layers_input(),
                sockets.heads_input(),
                *sockets.window_inputs(),
                sockets.branch_input(),
            ],
            outputs=[io.Model.Output(tooltip="The model that sees less text, for a sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        tokens: int,
        layers: str,
        heads: str,
        start_percent: float,
        end_percent: float,
        branch: str,
    ) -> io.NodeOutput:
        change, where = HideText(tokens), parse_where(layers, heads)
        return sockets.edited(cls, model, change, where, start_percent, end_percent, branch)


NODES = [VDiTFirstTextToken, VDiTHideText]
