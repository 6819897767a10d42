"""The node that puts the records of several samplings together."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io

from ..vdit_core.figures.origin import check_origin
from ..vdit_core.merging import merged
from ..vdit_core.pairs import Latent
from ..vdit_core.record import Record
from . import sockets


class VDiTMergeRecords(io.ComfyNode):
    """One record of several samplings, their videos numbered one after the other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VDiTMergeRecords",
            display_name="VDiT Merge Records",
            category=f"{sockets.CATEGORY}/look",
            search_aliases=["combine records", "several prompts", "join attention records"],
            description="Put the records of several samplings (prompts, seeds) together: their "
            "videos are numbered one after the other, so that figures count over all of them. "
            "Takes lists whole. For more than two, put these nodes in a row.",
            is_input_list=True,
            inputs=[
                sockets.Record.Input(
                    "record", tooltip="From VDiT Capture or VDiT Load Record; a list is merged."
                ),
                io.Latent.Input("latent", optional=True, tooltip=_ORDER.format("record")),
                sockets.Record.Input(
                    "record_2",
                    optional=True,
                    tooltip="Another: same model, size, steps and settings of VDiT Capture.",
                ),
                io.Latent.Input("latent_2", optional=True, tooltip=_ORDER.format("record_2")),
            ],
            outputs=[
                sockets.Record.Output(
                    "record", tooltip="All videos in one record, for any figure, without a latent."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        record: list[Record],
        latent: Sequence[Latent] = (),
        record_2: Sequence[Record] = (),
        latent_2: Sequence[Latent] = (),
    ) -> io.NodeOutput:
        records = [*record, *record_2]
        if len(set(map(id, records))) < len(records):
            raise ValueError(
                "records: one of them is given twice; a VDiT Capture keeps the last sampler that "
                "runs, so give each sampler a VDiT Capture of its own, and merge their records"
            )
        data = merged([each.data for each in records])
        for one in (*latent, *latent_2):
            check_origin(data, one["samples"])
        return io.NodeOutput(Record(data))


_ORDER = "The output of the sampler that fills {}, so that this node runs after it."

NODES = [VDiTMergeRecords]
