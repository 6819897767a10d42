"""Node: edit a loaded video by its attention maps."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..vdit_core.edits.footage import FollowFootage
from ..vdit_core.footage import Footage, read_mask
from ..vdit_core.host.comfy import attach, layer_count
from ..vdit_core.host.footage import check_video, frames_each
from ..vdit_core.pairs import Latent, pair_latent
from ..vdit_core.program import Edit, Window
from ..vdit_core.selection import parse_values, parse_where
from . import sockets


class VDiTVideoSource(io.ComfyNode):
    """A loaded video is the source of a pair."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTVideoSource",
            display_name="VDiT Video Source",
            category=f"{sockets.CATEGORY}/transfer",
            search_aliases=["edit footage", "video to video", "real video edit", "inversion free"],
            description="Edit real footage with two prompts: VDiT Pair Prompts says what it shows "
            "and what it is to show. At each step the footage, with as much noise as the edit "
            "still has, stands in the place of the pair's source, and the edit uses its attention "
            "maps in the chosen layers. No inversion. A mask keeps the rest of the picture. How "
            "footage becomes a source, and the mask, are our reading of arXiv 2504.10317, §3.1, "
            "which transfers between generated videos.",
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input stays as it is."),
                io.Latent.Input(
                    "video",
                    tooltip="The footage, from VAE Encode. One video, or several: each becomes a "
                    "pair. Repeat Latent Batch makes several edits of one.",
                ),
                sockets.layers_input(),
                sockets.heads_input(),
                sockets.strength_input(
                    "s in (1 − s) · own map + s · footage's map. Between 0 and 1 the chosen layers "
                    "attend twice. At 0 with a mask only the mask acts."
                ),
                io.String.Input(
                    "schedule",
                    default="",
                    advanced=True,
                    tooltip="Another strength for some layers: all=0.5; 0-3=1. Later entries win; "
                    "layers it does not name take `strength`. Empty: the same for all.",
                ),
                sockets.region_input(optional=False),
                *sockets.window_inputs(),
                sockets.branch_input(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the edit may happen: one mask for each frame, or a single one "
                    "for all. Elsewhere, in the chosen layers, each token takes the footage's "
                    "attention output for its own. A token that is drawn in part is blended: draw "
                    "generously, or widen the mask with Grow Mask.",
                ),
                io.Boolean.Input(
                    "hold_background",
                    default=True,
                    optional=True,
                    tooltip="With a mask: also hold the latent to the footage outside of it, at "
                    "each step, so that the picture there is the footage itself. It is ComfyUI's "
                    "own noise mask, and travels with the latent output.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model that follows the footage, for a sampler."),
                io.Latent.Output(
                    "latent",
                    tooltip="Each video twice, with the same noise, for the sampler's "
                    "latent_image. With denoise below 1 the edit also begins from the footage.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        video: Latent,
        layers: str,
        heads: str,
        strength: float,
        schedule: str,
        region: str,
        start_percent: float,
        end_percent: float,
        branch: str,
        mask: Tensor | None = None,
        hold_background: bool = True,
    ) -> io.NodeOutput:
        footage = _footage(model, video["samples"], mask)
        each = parse_values(schedule).resolve(layer_count(model), strength)
        change, where = FollowFootage(footage, each, region), parse_where(layers, heads)
        spec = Edit(sockets.asker(cls), change, where, Window(start_percent, end_percent), branch)
        held = footage.own if hold_background else None
        return io.NodeOutput(attach(model, spec), _paired(video, held))


def _footage(model: ModelPatcher, samples: Tensor, mask: Tensor | None) -> Footage:
    check_video(model, samples)
    own = None if mask is None else read_mask(mask, samples.shape, frames_each(model))
    return Footage(samples, own)


def _paired(video: Latent, held: Tensor | None) -> dict[str, Any]:
    """Each video twice; what is not `held` [F, H, W] in full may change."""
    return pair_latent(video | ({} if held is None else {"noise_mask": held[None, None]}))


NODES = [VDiTVideoSource]
