"""Nodes that act where entropy says: our reading of IE-Adapt (arXiv 2504.12027, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..vdit_core.choosing import chosen_by_record
from ..vdit_core.edits import Change
from ..vdit_core.edits.enhance import MODES, enhancement
from ..vdit_core.edits.transfer import PairTransfer
from ..vdit_core.figures.origin import data_of
from ..vdit_core.host.comfy import layout_of
from ..vdit_core.pairs import Latent
from ..vdit_core.plan import REGIONS
from ..vdit_core.ranking import GRANULARITIES, Granularity, Ranked, Side
from ..vdit_core.record import Record
from ..vdit_core.selection import HeadList, parse_heads, write_heads
from . import sockets

NOW, RECORDED = SELECTIONS = ("measured now", "from record")
WHICH = ("low", "high", "all")


class VDiTEntropyEnhance(io.ComfyNode):
    """Flatten the maps of the share of layers that look widest, or guide away from losing them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTEntropyEnhance",
            display_name="VDiT Entropy Enhance",
            category=f"{sockets.CATEGORY}/edit",
            search_aliases=["IE-Adapt", "enhance video", "entropy guidance", "PAG"],
            description="Act on the layers (or heads) whose attention looks widest: those of "
            "highest normalised row entropy, which the paper ties to a video's quality. The node "
            "says which it chose. Our reading of IE-Adapt: which layers, what is done to their "
            "maps and at which steps is not known to us. (arXiv 2504.12027, Algorithm 1)",
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input stays as it is."),
                _share_input("highest"),
                io.Float.Input(
                    "strength",
                    default=0.3,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="mix: the weight of the uniform map, up to 1. temperature: how far "
                    "each head's entropy goes towards the uniform map's, up to 1. guidance: its "
                    "scale, any number; begin low. 0 changes nothing.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    tooltip="mix: (1 − strength) · map + strength · uniform map. temperature: a "
                    "temperature above 1 for each head, found from its entropy. guidance: the "
                    "model runs once more with identity maps there, and the result is pushed away "
                    "from that.",
                ),
                _selection_input(),
                _granularity_input(),
                io.Combo.Input(
                    "region",
                    options=list(reversed(REGIONS)),
                    default=REGIONS[1],
                    advanced=True,
                    tooltip="video→video: only how the video attends to itself; text keeps its "
                    "map. all: the whole map. In models whose self-attention holds video only "
                    "(Wan) both are the same.",
                ),
                *_last_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The enhanced model, for a sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        share: float,
        strength: float,
        mode: str,
        selection: str,
        granularity: Granularity,
        region: str,
        start_percent: float,
        end_percent: float,
        branch: str,
        record: Record | None = None,
        latent: Latent | None = None,
        first_steps: int = 1,
    ) -> io.NodeOutput:
        joint = any(site.kind == "joint" for site in layout_of(model).sites)
        change = enhancement(mode, strength, region if joint else "all")
        ranked = Ranked(share, "high", granularity, first_steps)
        chosen = _chosen(model, change, ranked, selection, record, latent)
        when = start_percent, end_percent, branch
        return sockets.edited(cls, model, change, chosen.where, *when, chosen.now, chosen.remark)


class VDiTEntropyTransfer(io.ComfyNode):
    """The target of a pair uses the source's maps where those look narrowest."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTEntropyTransfer",
            display_name="VDiT Entropy Transfer",
            category=f"{sockets.CATEGORY}/transfer",
            search_aliases=["IE-Adapt", "entropy edit", "edit video", "attention transfer"],
            description="In a pair of videos, let the second (target prompt) use the attention "
            "maps of the first (source prompt) in the layers or heads whose maps look narrowest "
            "in the source, which the paper ties to structure; the others are the target's own. "
            "Needs VDiT Pair Prompts and VDiT Pair Latent. Our reading of IE-Adapt: its rule and "
            "steps are not known to us. (arXiv 2504.12027, Algorithm 1)",
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input stays as it is."),
                _share_input("lowest"),
                io.Combo.Input(
                    "which",
                    options=list(WHICH),
                    default=WHICH[0],
                    tooltip="low: where the source's maps look narrowest (our reading). high: "
                    "where they look widest, and all: everywhere, to compare with.",
                ),
                sockets.strength_input(
                    "s in (1 − s) · own map + s · source map. Between 0 and 1 the chosen layers "
                    "attend twice."
                ),
                _selection_input(),
                _granularity_input(),
                sockets.region_input(optional=False),
                *_last_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The model that transfers, for a sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        share: float,
        which: str,
        strength: float,
        selection: str,
        granularity: Granularity,
        region: str,
        start_percent: float,
        end_percent: float,
        branch: str,
        record: Record | None = None,
        latent: Latent | None = None,
        first_steps: int = 1,
    ) -> io.NodeOutput:
        side: Side = "high" if which == "high" else "low"
        ranked = Ranked(1.0 if which == "all" else share, side, granularity, first_steps)
        change = PairTransfer(strength, region)
        chosen = _chosen(model, change, ranked, selection, record, latent)
        when = start_percent, end_percent, branch
        return sockets.edited(cls, model, change, chosen.where, *when, chosen.now, chosen.remark)


@dataclass(frozen=True)
class _Chosen:
    """Where an edit acts. now: what the sampling itself is to tell. remark: what to say of it."""

    where: HeadList
    now: Ranked | None = None
    remark: str = ""


def _chosen(
    model: ModelPatcher,
    change: Change,
    ranked: Ranked,
    selection: str,
    record: Record | None,
    latent: Latent | None,
) -> _Chosen:
    if change.neutral or ranked.share == 0:
        return _Chosen(parse_heads("none"))
    if selection == NOW:
        return _Chosen(parse_heads("all:*"), ranked)
    if record is None:
        raise ValueError(
            f"record: selection {RECORDED} needs one; connect VDiT Capture or VDiT Load Record, or "
            f"choose {NOW}"
        )
    data, layout = data_of(record, latent), layout_of(model)
    choice = chosen_by_record(data, ranked, layout)
    return _Chosen(parse_heads(write_heads(choice.heads, layout.heads)), remark=choice.said)


def _share_input(which: str) -> io.Float.Input:
    return io.Float.Input(
        "share",
        default=0.5,
        min=0.0,
        max=1.0,
        step=0.05,
        tooltip=f"How many of the layers (or heads) are acted on: the {which} share by normalised "
        "row entropy. The paper splits at 0.5; 0 changes nothing.",
    )


def _selection_input() -> io.Combo.Input:
    return io.Combo.Input(
        "selection",
        options=list(SELECTIONS),
        default=NOW,
        tooltip="measured now: ranked in the first steps of this very sampling, acted on in the "
        "steps after them. from record: ranked by a record of an earlier sampling of this model, "
        "acted on from the first step.",
    )


def _granularity_input() -> io.Combo.Input:
    return io.Combo.Input(
        "granularity",
        options=list(GRANULARITIES),
        default=GRANULARITIES[0],
        tooltip="layers: whole layers are ranked, by the mean of their heads. heads: each head.",
    )


def _last_inputs() -> list[io.Input]:
    """When and for whom, and what the choice is made by."""
    return [
        *sockets.window_inputs(),
        sockets.branch_input(),
        sockets.Record.Input(
            "record",
            optional=True,
            tooltip="For selection from record: VDiT Capture or VDiT Load Record.",
        ),
        io.Latent.Input(
            "latent",
            optional=True,
            tooltip="For a record of VDiT Capture in this workflow: that sampler's output, so that "
            "this node runs after it.",
        ),
        io.Int.Input(
            "first_steps",
            default=1,
            min=1,
            max=1000,
            optional=True,
            advanced=True,
            tooltip="measured now: so many steps are measured, and left as they are.",
        ),
    ]


NODES = [VDiTEntropyEnhance, VDiTEntropyTransfer]
