"""Nodes that compare results."""

from __future__ import annotations

from comfy.clip_vision import ClipVisionModel
from comfy.sd import CLIP
from comfy_api.latest import io, ui
from torch import Tensor

from ..vdit_core.figures import compare_videos
from ..vdit_core.figures.judging import AGREEMENT
from ..vdit_core.host.judges import judges
from . import sockets

CHANGES = "consistency", "sharpness", "colourfulness", AGREEMENT


class VDiTCompareVideos(io.ComfyNode):
    """Two videos, their difference, how large it is, and what each is like by itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTCompareVideos",
            display_name="VDiT Compare Videos",
            category=f"{sockets.CATEGORY}/study",
            search_aliases=[
                "compare videos",
                "video difference",
                "PSNR",
                "SSIM",
                "LPIPS",
                "CLIP score",
                "prompt agreement",
                "flicker",
                "sharpness",
                "side by side",
            ],
            description="Show two videos of the same size frame by frame, with their amplified "
            "difference, PSNR and SSIM, and how steady, sharp and colourful each of them is.",
            inputs=[
                io.Image.Input("a", tooltip="A video as a batch of frames, such as the original."),
                io.Image.Input(
                    "b", tooltip="A video of the same length and size, such as an edit."
                ),
                *sockets.judge_inputs(),
            ],
            outputs=[
                io.Image.Output(
                    tooltip="Frames of both, their difference, curves over the frames."
                ),
                io.String.Output("report", tooltip="The numbers as a table."),
                io.Float.Output(
                    "PSNR", tooltip="In dB, over all frames; 100 stands for identical videos."
                ),
                io.Float.Output("SSIM", tooltip="Mean over the frames; 1 for identical videos."),
                sockets.csv_output(),
                io.Float.Output(
                    "consistency",
                    tooltip="Of b less that of a. 1 − mean |x(t+1) − x(t)| of values 0 to 1: falls "
                    "with flicker and with motion; 0 for single pictures.",
                ),
                io.Float.Output(
                    "sharpness",
                    tooltip="Of b less that of a. Variance of the Laplacian of luma, in squared "
                    "levels of 255; noise counts as sharpness too.",
                ),
                io.Float.Output(
                    "colourfulness",
                    tooltip="Of b less that of a, after Hasler and Süsstrunk; grey has 0.",
                ),
                io.Float.Output(
                    "agreement",
                    tooltip="With the prompt, of b less that of a: cosine of CLIP features, mean "
                    "over the frames. 0 without clip and prompt.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        a: Tensor,
        b: Tensor,
        clip_vision: ClipVisionModel | None = None,
        lpips: bool = False,
        clip: CLIP | None = None,
        prompt: str = "",
    ) -> io.NodeOutput:
        found = compare_videos(a, b, judges(clip_vision, lpips, clip, prompt))
        preview = ui.PreviewImage(found.image, cls=cls)
        texts = found.report, found.psnr, found.ssim, found.table.csv()
        changes = [found.judged.change(name) or 0.0 for name in CHANGES]
        return io.NodeOutput(found.image, *texts, *changes, ui=preview)


NODES = [VDiTCompareVideos]
