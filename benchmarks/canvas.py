"""Lay out a workflow in code and write it down as ComfyUI's front end saves it.

    canvas = Canvas("a name", schemas)
    with canvas.group("Model"):
        world = canvas.add("VDiTToyWorld")
    with canvas.group("Prompt"):
        prompt = canvas.add("CLIPTextEncode", clip=world["CLIP"], text="a red circle")

Groups stand side by side, nodes in a group below one another, unless told otherwise. Widget values
are put in the order of the server's /object_info, so they cannot drift from the schemas. Outputs,
and optional widgets of ComfyUI's own nodes, are left out at a node's end where nothing uses them:
newer versions have more of them, and every version is to write, and read, the same file.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .workflow_api import Input, Json, inputs_of

TITLE, ROW, WIDGET, PAD = 30, 20, 24, 16  # pixels of the front end's node body
GAP, MARGIN, HEAD = 30, 20, 44  # between nodes, around them in a group, above them in a group
NEXT_GROUP = 40
WIDTHS = {
    "CLIPTextEncode": 340,
    "CLIPLoader": 380,
    "CreateVideo": 220,
    "PreviewAny": 260,
    "UNETLoader": 380,
    "VAEDecode": 200,
    "VAELoader": 380,
    "VDiTAttentionMap": 460,
    "VDiTCompareVideos": 460,
    "VDiTSensitivity": 460,
    "VDiTDetectSinks": 460,
    "VDiTSparsity": 400,
    "VDiTStatistics": 460,
    "VDiTSweepReport": 460,
    "VDiTStructure": 460,
    "VDiTTextAttention": 460,
    "VDiTToyClip": 380,
    "VDiTVideoSource": 300,
}
EXTRA = {  # pixels for what a node shows below its widgets
    "CLIPLoader": WIDGET,  # one that is left out
    "CLIPTextEncode": 80,
    "CreateVideo": WIDGET,  # one that newer versions have
    "PreviewAny": 280,
    "SaveAnimatedWEBP": 134,
    "SaveImage": 260,
    "SaveVideo": 200,
    "VDiTAttentionMap": 330,
    "VDiTCapture": 44,  # the line that says what it did
    "VDiTCompareVideos": 330,
    "VDiTFreezeHeads": 44,
    "VDiTLayerSweep": 44,
    "VDiTDetectSinks": 330,
    "VDiTPerturb": 44,
    "VDiTRecordSource": 66,
    "VDiTReplaySource": 44,
    "VDiTSensitivity": 330,
    "VDiTSkipHeads": 44,
    "VDiTSparsity": 190,  # a line for each layer
    "VDiTStatistics": 330,
    "VDiTSweepReport": 330,
    "VDiTStructure": 330,
    "VDiTTemperature": 44,
    "VDiTTextAttention": 330,
    "VDiTTransfer": 44,
    "VDiTVideoSource": 44,
}
COLOURS = {  # (title, body) as in the front end's own palette
    "ours": ("#323", "#535"),
    "positive": ("#232", "#353"),
    "negative": ("#322", "#533"),
    "note": ("#432", "#653"),
}
GROUP_COLOURS = {"plain": "#3f789e", "ours": "#a1309b", "result": "#88aa88"}


@dataclass(frozen=True)
class Socket:
    """An output of a node."""

    node: int
    slot: int
    kind: str


@dataclass(frozen=True)
class Node:
    """A node that has been put on a canvas; its outputs by name."""

    id: int
    outputs: dict[str, Socket]

    def __getitem__(self, name: str) -> Socket:
        return self.outputs[name]


@dataclass
class Group:
    """A titled box. across: its nodes stand side by side."""

    title: str
    x: float
    y: float
    across: bool
    colour: str
    right: float = 0
    bottom: float = 0


@dataclass
class Canvas:
    """A workflow that is being laid out. schemas: the answer of /object_info."""

    name: str
    schemas: Json
    nodes: list[Json] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    models: dict[str, list[Json]] = field(default_factory=dict)

    @contextmanager
    def group(
        self,
        title: str,
        *,
        right_of: Group | None = None,
        below: Group | None = None,
        across: bool = False,
        colour: str = "plain",
    ) -> Iterator[Group]:
        """Open a group, at the right of the last one unless told where; nodes added go into it."""
        beside = right_of or (self.groups[-1] if self.groups and below is None else None)
        x = beside.right + NEXT_GROUP if beside else below.x if below else 0
        y = below.bottom + NEXT_GROUP if below else beside.y if beside else 0
        group = Group(title, x, y, across, colour, x + 2 * MARGIN, y + HEAD + MARGIN)
        self.groups.append(group)
        self._cursor = (x + MARGIN, y + HEAD + TITLE)
        yield group

    def add(
        self, kind: str, *, title: str = "", wide: float = 0, colour: str = "", **values: Any
    ) -> Node:
        """Put a node of this kind into the open group.

        values: its inputs by name, each a Socket or a widget's value; a widget left out has its
        default. wide: pixels, if not as usual.
        """
        if kind not in self.schemas:
            raise ValueError(f"{self.name}: ComfyUI has no node {kind!r}; is its pack loaded?")
        inputs = inputs_of(self.schemas[kind])
        if unknown := set(values) - {i.name for i in inputs}:
            known = ", ".join(i.name for i in inputs)
            raise ValueError(f"{self.name}: {kind} has no {sorted(unknown)}, its inputs: {known}")
        ours = kind.startswith("VDiT")
        node = self._new_node(kind, title, colour or ("ours" if ours else ""))
        for item in inputs if ours else _without_unused(inputs, values):
            self._connect(node, item, values.get(item.name))
        outputs = self._outputs(node)
        rows = max(len(node["outputs"]), sum("widget" not in i for i in node["inputs"]))
        height = ROW * rows + WIDGET * len(node["widgets_values"]) + EXTRA.get(kind, 0) + PAD
        self._place(node, wide or WIDTHS.get(kind, 300), height)
        return outputs

    def note(self, text: str, width: float = 380, height: float = 330) -> None:
        """Put a note into the open group."""
        node = self._new_node("MarkdownNote", "Note", "note")
        node["widgets_values"] = [text]
        self._place(node, width, height)

    def to_json(self) -> Json:
        """The workflow as the front end would save it."""
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"vdit-attention/{self.name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": [node | {"outputs": _linked(node["outputs"])} for node in self.nodes],
            "links": self.links,
            "groups": [_group_json(index, group) for index, group in enumerate(self.groups, 1)],
            "config": {},
            "extra": {"ds": self._view()},
            "version": 0.4,
        }

    def _new_node(self, kind: str, title: str, colour: str) -> Json:
        index = len(self.nodes) + 1
        node: Json = {"id": index, "type": kind, "pos": [], "size": [], "flags": {}}
        node |= {"order": index - 1, "mode": 0, "inputs": [], "outputs": []}
        if title:
            node["title"] = title
        properties: Json = {} if kind == "MarkdownNote" else {"Node name for S&R": kind}
        if kind in self.models:
            properties["models"] = self.models[kind]
        node["properties"] = properties
        node["widgets_values"] = []
        if colour:
            node["color"], node["bgcolor"] = COLOURS[colour]
        self.nodes.append(node)
        return node

    def _connect(self, node: Json, item: Input, value: Any) -> None:
        linked = isinstance(value, Socket)
        if linked:
            self._link(node, item, value)
        if item.is_widget:
            node["widgets_values"].append(item.default if value is None or linked else value)
            if item.options.get("control_after_generate"):
                node["widgets_values"].append("fixed")
        elif item.required and not linked:
            raise ValueError(f"{self.name}: {node['type']} needs its input {item.name!r}")
        elif not linked:
            node["inputs"].append(_input(item) | {"shape": 7, "link": None})

    def _link(self, node: Json, item: Input, origin: Socket) -> None:
        index = len(self.links) + 1
        target = [node["id"], len(node["inputs"])]
        self.links.append([index, origin.node, origin.slot, *target, origin.kind])
        optional = {} if item.required else {"shape": 7}
        node["inputs"].append(_input(item) | optional | {"link": index})
        self.nodes[origin.node - 1]["outputs"][origin.slot]["links"].append(index)

    def _outputs(self, node: Json) -> Node:
        schema = self.schemas[node["type"]]
        pairs = list(zip(schema["output_name"], schema["output"], strict=True))
        node["outputs"] = [{"name": n, "type": t, "links": []} for n, t in pairs]
        sockets = {n: Socket(node["id"], slot, t) for slot, (n, t) in enumerate(pairs)}
        return Node(node["id"], sockets)

    def _place(self, node: Json, width: float, height: float) -> None:
        """Put the node at the cursor and grow the open group around it."""
        group, (x, y) = self.groups[-1], self._cursor
        node["pos"], node["size"] = [x, y], [width, height]
        group.right = max(group.right, x + width + MARGIN)
        group.bottom = max(group.bottom, y + height + MARGIN)
        step = (width + GAP, 0) if group.across else (0, height + TITLE + GAP)
        self._cursor = (x + step[0], y + step[1])

    def _view(self) -> Json:
        """Where the front end looks first: at all of it, as far as text stays legible."""
        width, height = max(g.right for g in self.groups), max(g.bottom for g in self.groups)
        scale = round(max(0.58, min(0.9, 1780 / width, 930 / height)), 3)
        return {"scale": scale, "offset": [round(110 / scale), round(100 / scale)]}


def _without_unused(inputs: list[Input], values: Json) -> list[Input]:
    """The inputs less the optional widgets at their end that are not given a value."""
    used = [i.required or not i.is_widget or i.name in values for i in inputs]
    return inputs[: max((n for n, is_used in enumerate(used, 1) if is_used), default=0)]


def _linked(outputs: list[Json]) -> list[Json]:
    """The outputs up to the last that something is linked to."""
    return outputs[: max((n for n, output in enumerate(outputs, 1) if output["links"]), default=0)]


def _input(item: Input) -> Json:
    widget = {"widget": {"name": item.name}} if item.is_widget else {}
    return {"name": item.name, "type": item.kind} | widget


def _group_json(index: int, group: Group) -> Json:
    box = [group.x, group.y, group.right - group.x, group.bottom - group.y]
    colour = GROUP_COLOURS[group.colour]
    return {
        "id": index,
        "title": group.title,
        "bounding": box,
        "color": colour,
        "font_size": 24,
        "flags": {},
    }
