"""Nodes that compare results."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..vdit_core.figures import compare_videos
from . import sockets


class VDiTCompareVideos(io.ComfyNode):
    """Two videos, their difference and how large it is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTCompareVideos",
            display_name="VDiT Compare Videos",
            category=f"{sockets.CATEGORY}/study",
            search_aliases=["compare videos", "video difference", "PSNR", "SSIM", "side by side"],
            description="Show two videos of the same size frame by frame, with their amplified "
            "difference, PSNR and SSIM.",
            inputs=[
                io.Image.Input("a", tooltip="A video as a batch of frames, such as the original."),
                io.Image.Input(
                    "b", tooltip="A video of the same length and size, such as an edit."
                ),
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
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, a: Tensor, b: Tensor) -> io.NodeOutput:
        result = compare_videos(a, b)
        preview = ui.PreviewImage(result.image, cls=cls)
        numbers = result.report, result.psnr, result.ssim, result.table.csv()
        return io.NodeOutput(result.image, *numbers, ui=preview)


NODES = [VDiTCompareVideos]
