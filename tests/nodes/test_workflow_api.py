"""The converter from saved workflows to prompts, on small made-up nodes."""

from __future__ import annotations

from typing import Any

import pytest
from vdit_attention.benchmarks.workflow_api import MUTED, WorkflowError, to_prompt

Json = dict[str, Any]
BYPASSED = 4


def schema(required: Json, optional: Json | None = None, outputs: tuple[str, ...] = ()) -> Json:
    groups = {"required": required, "optional": optional or {}}
    return {
        "input": groups,
        "input_order": {name: list(group) for name, group in groups.items()},
        "output": list(outputs),
        "display_name": "a name",
    }


SEED: Json = {"default": 1, "control_after_generate": True}
NESTED: Json = {"required": {"depth": ["INT", {"default": 3}]}}
SCHEMAS = {
    "Load": schema({"file": [["a", "b"]]}, outputs=("MODEL", "CLIP")),
    "Edit": schema({"model": ["MODEL"], "amount": ["FLOAT", {"default": 0.5}]}, outputs=("MODEL",)),
    "Sample": schema(
        {"seed": ["INT", SEED], "model": ["MODEL"], "steps": ["INT", {"default": 20}]},
        {"mask": ["MASK"]},
        ("LATENT",),
    ),
    "Choose": schema(
        {
            "way": [
                "COMFY_DYNAMICCOMBO_V3",
                {"options": [{"key": "plain", "inputs": {}}, {"key": "deep", "inputs": NESTED}]},
            ],
            "name": ["STRING", {"default": "x"}],
        }
    ),
}


def node(index: int, kind: str, values: Any = (), mode: int = 0, **links: int | None) -> Json:
    types = {"model": "MODEL", "mask": "MASK"}
    outputs = SCHEMAS[kind]["output"] if kind in SCHEMAS else ["MODEL"]
    return {
        "id": index,
        "type": kind,
        "mode": mode,
        "widgets_values": values if isinstance(values, dict) else list(values),
        "inputs": [{"name": n, "type": types.get(n, "INT"), "link": k} for n, k in links.items()],
        "outputs": [{"name": kind, "type": kind} for kind in outputs],
    }


def workflow(nodes: list[Json], *links: tuple[int, int, int]) -> Json:
    """links: (id, origin node, origin slot)."""
    return {"nodes": nodes, "links": [[i, origin, slot, 0, 0, ""] for i, origin, slot in links]}


def test_widgets_by_position_and_links() -> None:
    nodes = [node(1, "Load", ["b"]), node(2, "Sample", [7, "randomize", 30], model=1)]
    prompt = to_prompt(workflow(nodes, (1, 1, 0)), SCHEMAS)
    assert prompt["1"]["inputs"] == {"file": "b"}
    assert prompt["2"]["inputs"] == {"seed": 7, "steps": 30, "model": ["1", 0]}
    assert prompt["2"]["class_type"] == "Sample"


def test_widgets_by_name() -> None:
    nodes = [node(1, "Load", {"file": "a", "preview": 3})]
    assert to_prompt(workflow(nodes), SCHEMAS)["1"]["inputs"] == {"file": "a"}


def test_a_linked_widget_takes_its_link() -> None:
    nodes = [node(1, "Load", ["a"]), node(2, "Sample", [7, "fixed", 30], steps=1)]
    assert to_prompt(workflow(nodes, (1, 1, 1)), SCHEMAS)["2"]["inputs"]["steps"] == ["1", 1]


def test_notes_are_left_out() -> None:
    nodes = [node(1, "MarkdownNote", ["text"]), node(2, "Load", ["a"])]
    assert set(to_prompt(workflow(nodes), SCHEMAS)) == {"2"}


def test_a_muted_node_and_links_from_it_are_left_out() -> None:
    nodes = [node(1, "Load", ["a"], MUTED), node(2, "Sample", [7, "fixed", 30], model=1)]
    prompt = to_prompt(workflow(nodes, (1, 1, 0)), SCHEMAS)
    assert set(prompt) == {"2"} and "model" not in prompt["2"]["inputs"]


def test_a_bypassed_node_passes_on_what_has_the_same_type() -> None:
    nodes = [
        node(1, "Load", ["a"]),
        node(2, "Edit", [0.7], BYPASSED, mask=None, model=1),
        node(3, "Edit", [0.8], BYPASSED, model=2),
        node(4, "Sample", [7, "fixed", 30], model=3),
    ]
    prompt = to_prompt(workflow(nodes, (1, 1, 0), (2, 2, 0), (3, 3, 0)), SCHEMAS)
    assert set(prompt) == {"1", "4"} and prompt["4"]["inputs"]["model"] == ["1", 0]


def test_a_reroute_passes_on() -> None:
    nodes = [
        node(1, "Load", ["a"]),
        node(2, "Reroute", model=1),
        node(3, "Sample", [7, "fixed", 30], model=2),
    ]
    prompt = to_prompt(workflow(nodes, (1, 1, 0), (2, 2, 0)), SCHEMAS)
    assert set(prompt) == {"1", "3"} and prompt["3"]["inputs"]["model"] == ["1", 0]


def test_a_dynamic_combo_brings_its_own_widgets() -> None:
    nodes = [node(1, "Choose", ["plain", "p"]), node(2, "Choose", ["deep", 5, "q"])]
    prompt = to_prompt(workflow(nodes), SCHEMAS)
    assert prompt["1"]["inputs"] == {"way": "plain", "name": "p"}
    assert prompt["2"]["inputs"] == {"way": "deep", "way.depth": 5, "name": "q"}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (node(3, "Edit", [0.1, 2, 3], model=1), r"node 3 \(Edit\): .*3 widget values.*has 1"),
        (node(3, "Unknown", model=1), r"node 3 \(Unknown\): the server knows no such node"),
        (node(3, "Edit", [0.1], model=9), r"node 3 \(Edit\): .*link 9, which does not exist"),
        (node(3, "Edit", [0.1], model=8), r"node 3 \(Edit\): link 8 comes from node 77"),
        (node(3, "Choose", ["sideways", "q"]), r"node 3 \(Choose\): way: got 'sideways'"),
    ],
)
def test_says_what_is_wrong_with_which_node(broken: Json, message: str) -> None:
    nodes = [node(1, "Load", ["a"]), broken]
    with pytest.raises(WorkflowError, match=message):
        to_prompt(workflow(nodes, (1, 1, 0), (8, 77, 0)), SCHEMAS)
