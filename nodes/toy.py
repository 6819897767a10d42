"""Node: the toy world, a tiny video model that runs anywhere."""

from __future__ import annotations

from comfy_api.latest import io

from ..vdit_core.host.toy_world import load_toy_world
from ..vdit_core.toy.clips import BACKGROUNDS, COLOURS, MOTIONS, SHAPES


class VDiTToyWorld(io.ComfyNode):
    """Give MODEL, CLIP and VAE of the toy world."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTToyWorld",
            display_name="VDiT Toy World",
            category="VDiT Attention/toy",
            search_aliases=[
                "tiny wan",
                "tiny mochi",
                "toy model",
                "small video model",
                "demo model",
            ],
            description=(
                "A tiny Wan or Mochi video model with its text encoder and VAE, included in this "
                "pack: no download, runs in seconds without a GPU. It knows coloured shapes that "
                "move over a grey background and nothing else; what it shows are toy results.\n\n"
                "Prompt: “a red circle falling on a striped background”.\n"
                f"Colours: {', '.join(COLOURS)}.\nShapes: {', '.join(SHAPES)}.\n"
                f"Motions: {', '.join(MOTIONS)}.\nBackgrounds: {', '.join(BACKGROUNDS)}.\n"
                "Any other word is an error."
            ),
            inputs=[
                io.Combo.Input(
                    "variant",
                    options=["wan", "mochi"],
                    default="wan",
                    tooltip="Which toy model. wan: the architecture of Wan 2.1, where text enters "
                    "by cross-attention. mochi: the architecture of Mochi 1, where video and text "
                    "share one attention. Both have 6 layers of 4 heads and are made for 64 × 64 "
                    "pixels and 17 frames.",
                )
            ],
            outputs=[
                io.Model.Output(tooltip="The video model, as from Load Diffusion Model."),
                io.Clip.Output(tooltip="The text encoder, for CLIP Text Encode."),
                io.Vae.Output(tooltip="Turns latents into pictures, for VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls, variant: str) -> io.NodeOutput:
        return io.NodeOutput(*load_toy_world(variant=variant))


NODES = [VDiTToyWorld]
