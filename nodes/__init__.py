"""The doorways: every node of the pack, one module per theme."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    capture,
    edit,
    enhance,
    entropy,
    footage,
    look,
    merge,
    sensitivity,
    sinks,
    source,
    structure,
    study,
    sweep,
    text,
    toy,
    transfer,
    words,
)

MODULES = (
    toy,
    capture,
    merge,
    look,
    structure,
    words,
    sinks,
    entropy,
    edit,
    text,
    transfer,
    source,
    enhance,
    footage,
    study,
    sensitivity,
    sweep,
)


class VDiTAttentionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for module in MODULES for node in module.NODES]
