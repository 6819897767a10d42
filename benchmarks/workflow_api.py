"""Turn a workflow as ComfyUI's front end saves it into the prompt its API takes.

Driven by the server's /object_info. Muted and bypassed nodes, notes, reroutes and converted widgets
are treated as the front end treats them; what it cannot treat (subgraphs, primitives) is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Link = tuple[int, int]  # node id, output slot

NOTES = {"Note", "MarkdownNote"}
MUTED, BYPASSED = 2, 4
AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize"}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}


class WorkflowError(ValueError):
    """A workflow that cannot be turned into a prompt; the message names the node."""

    def __init__(self, node: Json, problem: str) -> None:
        super().__init__(f"node {node['id']} ({node['type']}): {problem}")


@dataclass(frozen=True)
class Input:
    """One input of a node's schema. kind: its type; a combo's is COMBO whatever the notation."""

    name: str
    kind: str
    options: Json
    required: bool

    @property
    def is_widget(self) -> bool:
        kind = self.options.get("widgetType", self.kind)  # of an input that takes several types
        return kind in WIDGET_TYPES and not self.options.get("forceInput")

    @property
    def default(self) -> Any:
        choices: list[Any] = self.options.get("options", [])
        first = choices[0] if choices else None
        return self.options.get("default", first["key"] if isinstance(first, dict) else first)


def to_prompt(workflow: Json, schemas: Json) -> Json:
    """The prompt for POST /prompt. `schemas` is the answer of /object_info."""
    graph = _Graph(workflow, schemas)
    return {str(node["id"]): graph.prompt_node(node) for node in graph.active()}


def inputs_of(schema: Json) -> list[Input]:
    """The inputs of a node's schema, in the order in which their widgets are saved."""
    return [
        _read_input(name, section[name], group == "required")
        for group in ("required", "optional")
        for section in [schema["input"].get(group, {})]
        for name in schema.get("input_order", {}).get(group, section)
    ]


def widget_values(node: Json, inputs: Sequence[Input]) -> dict[str, Any]:
    """A node's widgets by name, from the list that is saved by position."""
    saved: Any = node.get("widgets_values", [])
    if isinstance(saved, dict):
        return {i.name: saved[i.name] for i in inputs if i.is_widget and i.name in saved}
    remaining = list(saved or [])
    values = dict(_take_values(node, inputs, remaining))
    if remaining:
        raise WorkflowError(
            node,
            f"it saves {len(saved)} widget values, but its schema has {len(saved) - len(remaining)}"
            f" (left over: {remaining}); save the workflow again with this version of the node",
        )
    return values


def _read_input(name: str, spec: Sequence[Any], required: bool) -> Input:
    kind, options = spec[0], dict(spec[1]) if len(spec) > 1 else {}
    if isinstance(kind, list):
        options, kind = {"options": kind, **options}, "COMBO"
    return Input(name, kind, options, required)


def _take_values(
    node: Json, inputs: Sequence[Input], remaining: list[Any]
) -> Iterator[tuple[str, Any]]:
    for item in inputs:
        if not item.is_widget:
            continue
        if not remaining:
            if item.default is None and item.required:
                raise WorkflowError(node, f"no value is saved for its widget {item.name!r}")
            return
        value = remaining.pop(0)
        yield item.name, value
        if item.kind == "COMFY_DYNAMICCOMBO_V3":
            yield from _take_values(node, _nested(node, item, value), remaining)
        if item.options.get("control_after_generate") and remaining[:1]:
            _drop(remaining, AFTER_GENERATE)
        if item.options.get("image_upload"):
            _drop(remaining, {"image"})


def _drop(remaining: list[Any], known: set[str]) -> None:
    """Leave out a value that steers the front end and is no input."""
    if remaining and isinstance(remaining[0], str) and remaining[0] in known:
        remaining.pop(0)


def _nested(node: Json, item: Input, chosen: Any) -> list[Input]:
    """The inputs that a dynamic combo's chosen option brings with it."""
    for option in item.options["options"]:
        if option["key"] == chosen:
            nested = inputs_of({"input": option["inputs"]})
            return [Input(f"{item.name}.{i.name}", i.kind, i.options, i.required) for i in nested]
    keys = ", ".join(str(option["key"]) for option in item.options["options"])
    raise WorkflowError(node, f"{item.name}: got {chosen!r}, allowed are {keys}")


class _Graph:
    def __init__(self, workflow: Json, schemas: Json) -> None:
        self.nodes: dict[int, Json] = {node["id"]: node for node in workflow["nodes"]}
        self.links: dict[int, Link] = {link[0]: (link[1], link[2]) for link in workflow["links"]}
        self.schemas = schemas

    def active(self) -> list[Json]:
        """The nodes that are in the prompt."""
        passing = NOTES | {"Reroute"}
        return [
            node
            for node in self.nodes.values()
            if node["type"] not in passing and node.get("mode", 0) not in (MUTED, BYPASSED)
        ]

    def prompt_node(self, node: Json) -> Json:
        kind = node["type"]
        if kind not in self.schemas:
            raise WorkflowError(
                node, "the server knows no such node; install its pack (or unpack the subgraph)"
            )
        inputs = widget_values(node, inputs_of(self.schemas[kind]))
        for socket in node.get("inputs", []):
            if socket.get("link") is not None and (origin := self._origin(node, socket["link"])):
                inputs[socket["name"]] = [str(origin[0]), origin[1]]
        title = node.get("title", self.schemas[kind]["display_name"])
        return {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}

    def _origin(self, node: Json, link: int) -> Link | None:
        """Where a link comes from once bypassed nodes and reroutes are taken out; None if muted."""
        if link not in self.links:
            raise WorkflowError(node, f"an input refers to link {link}, which does not exist")
        origin, slot = self.links[link]
        source = self.nodes.get(origin)
        if source is None:
            raise WorkflowError(node, f"link {link} comes from node {origin}, which does not exist")
        if source.get("mode", 0) == MUTED:
            return None
        if source["type"] == "Reroute":
            inward = source["inputs"][0].get("link")
        elif source.get("mode", 0) == BYPASSED:
            inward = _bypass(source, slot)
        else:
            return origin, slot
        return None if inward is None else self._origin(source, inward)


def _bypass(node: Json, slot: int) -> int | None:
    """The link that takes the place of a bypassed node's output: same slot, else same type."""
    kind, inputs = node["outputs"][slot]["type"], node.get("inputs", [])
    beside = inputs[slot : slot + 1]
    for socket in (*beside, *inputs):
        if socket["type"] == kind:
            return socket.get("link")
    return None
