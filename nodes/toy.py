"""Nodes: the toy world, a tiny video model that runs anywhere, and the clips it learnt from."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..vdit_core.host.toy_world import load_toy_world
from ..vdit_core.toy.clips import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, render_with_objects
from ..vdit_core.toy.text import scene_of


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


class VDiTToyClip(io.ComfyNode):
    """Render a clip of the toy world, as footage."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTToyClip",
            display_name="VDiT Toy Clip",
            category="VDiT Attention/toy",
            search_aliases=["toy video", "example footage", "test clip"],
            description="Draw a clip of the toy world without any model, and a mask of its object: "
            "footage whose truth is known, to try VDiT Video Source on. 17 frames of 64 × 64 "
            "pixels, as the toy model was trained on.",
            inputs=[
                io.String.Input(
                    "prompt",
                    default="a red circle falling on a striped background",
                    tooltip="One colour, shape, motion and background, in the words of the toy "
                    "world (see VDiT Toy World).",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="What the prompt leaves open: place, size, speed, shading, light, "
                    "pattern, camera drift.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The frames, for VAE Encode."),
                io.Mask.Output(tooltip="Where the object is, in each frame."),
            ],
        )

    @classmethod
    def execute(cls, prompt: str, seed: int) -> io.NodeOutput:
        chance = torch.Generator().manual_seed(seed)
        clips, objects = render_with_objects([scene_of(prompt)], chance)
        return io.NodeOutput(clips[0].movedim(0, -1), objects[0])


NODES = [VDiTToyWorld, VDiTToyClip]
