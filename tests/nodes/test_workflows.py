"""The files in workflows/: as built, valid against the node schemas, and run by the real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from vdit_attention.benchmarks.build_workflows import FOLDER, WORKFLOWS, build
from vdit_attention.benchmarks.client import WorkflowFailed
from vdit_attention.benchmarks.graphs.footage import FOOTAGE
from vdit_attention.benchmarks.server import ComfyServer
from vdit_attention.benchmarks.workflow_api import Input, inputs_of, to_prompt, widget_values
from vdit_attention.vdit_core.host.toy_sampling import SamplerSettings

TOY = [name for name in WORKFLOWS if name.startswith("toy_")]
REAL = [name for name in WORKFLOWS if name not in TOY]
LOADERS = {"UNETLoader", "VAELoader", "CLIPLoader", "DualCLIPLoader"}
TITLE_BAR = 30


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


@pytest.fixture(scope="module")
def schemas(server: ComfyServer) -> dict[str, Any]:
    return server.object_info()


def load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def test_every_file_has_a_builder() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(WORKFLOWS)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_file_is_what_its_builder_makes(name: str, schemas: dict[str, Any]) -> None:
    built = build(name, schemas)
    command = "python3 dev.py python -m vdit_attention.benchmarks.build_workflows"
    same = (FOLDER / f"{name}.json").read_text("utf-8") == built
    assert same, f"workflows/{name}.json differs from what is built; run {command}"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_keeps_to_the_schemas(name: str, schemas: dict[str, Any]) -> None:
    assert list(problems(load(name), schemas)) == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_note_says_what_to_look_at_and_try(name: str) -> None:
    notes = [n["widgets_values"][0] for n in load(name)["nodes"] if n["type"] == "MarkdownNote"]
    assert len(notes) == 1
    assert "**Look at**" in notes[0] and "**Try**" in notes[0]
    assert ("Toy results" in notes[0]) == name.startswith("toy_")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nothing_overlaps_and_every_node_is_in_a_group(name: str) -> None:
    workflow = load(name)
    nodes, groups = (
        [whole_box(node) for node in workflow["nodes"]],
        [tuple(group["bounding"]) for group in workflow["groups"]],
    )
    for boxes in (nodes, groups):
        assert not [pair for pair in combinations(boxes, 2) if overlap(*pair)]
    for box in nodes:
        assert sum(holds(group, box) for group in groups) == 1


@pytest.mark.parametrize("name", TOY)
def test_samples_as_the_toy_studies_do(name: str) -> None:
    settings = SamplerSettings()
    wanted = [settings.steps, settings.cfg, settings.sampler, settings.scheduler]
    for node in load(name)["nodes"]:
        if node["type"] == "KSampler" and "Probe" not in node.get("title", ""):
            assert node["widgets_values"][2:6] == wanted


@pytest.mark.parametrize("name", REAL)
def test_weights_can_be_downloaded_from_the_front_end(name: str) -> None:
    loaders = [node for node in load(name)["nodes"] if node["type"] in LOADERS]
    assert len(loaders) == (4 if name.startswith("wan22_") else 3)
    for node in loaders:
        models, values = node["properties"]["models"], node["widgets_values"]
        assert [model["name"] for model in models] == values[: len(models)]
        for model in models:
            assert model["url"].startswith("https://huggingface.co/Comfy-Org/") or (
                "comfyanonymous/flux_text_encoders" in model["url"]
            )
            assert Path(model["url"].partition("?")[0]).name == model["name"]
            assert model["directory"] in ("diffusion_models", "text_encoders", "vae")


@pytest.mark.parametrize("name", TOY)
def test_toy_workflow_runs(name: str, server: ComfyServer, schemas: dict[str, Any]) -> None:
    outputs = server.run(to_prompt(load(name), schemas))
    images = [image for output in outputs.values() for image in output.get("images", [])]
    assert images
    for image in images:
        assert len(server.view(**image)) > 1000


@pytest.mark.parametrize("name", REAL)
def test_real_workflow_is_accepted(name: str, server: ComfyServer, schemas: dict[str, Any]) -> None:
    """ComfyUI validates it before it runs; then only the files fail, which are empty here."""
    workflow = load(name)
    for node in workflow["nodes"]:
        for model in node["properties"].get("models", []):
            path = server.base / "models" / model["directory"] / model["name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (server.base / "input" / FOOTAGE).touch()
    prompt_id = server.queue(to_prompt(workflow, schemas))
    with pytest.raises(WorkflowFailed, match=r"Loader|GetVideoComponents"):
        server.wait(prompt_id)


def problems(workflow: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a workflow, judged by the schemas of its nodes."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link in workflow["links"]:
        yield from link_problems(link, nodes)
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        if node["type"] not in schemas:
            yield f"{node['type']}: ComfyUI has no such node"
            continue
        inputs = inputs_of(schemas[node["type"]])
        values = widget_values(node, inputs)
        linked = {i["name"] for i in node["inputs"] if i["link"] is not None}
        for item in inputs:
            if item.name in values:
                yield from value_problems(node["type"], item, values[item.name])
            elif item.required and item.name not in linked:
                yield f"{node['type']}: {item.name} has neither a value nor a link"


def link_problems(link: list[Any], nodes: dict[int, dict[str, Any]]) -> Iterator[str]:
    index, origin, slot, target, socket, kind = link
    source, sink = nodes[origin]["outputs"][slot], nodes[target]["inputs"][socket]
    if index not in source["links"] or sink["link"] != index:
        yield f"link {index}: its two ends do not know of it"
    taken = sink["type"].split(",")  # some inputs take several types
    kinds = {kind, source["type"], kind if kind in taken else sink["type"]}
    if "*" not in kinds and len(kinds) > 1:
        yield f"link {index}: joins {kinds}"


def value_problems(kind: str, item: Input, value: Any) -> Iterator[str]:
    choices = item.options.get("options")
    if item.kind in ("INT", "FLOAT"):
        low, high = item.options.get("min", value), item.options.get("max", value)
        if isinstance(value, bool) or not low <= value <= high:
            yield f"{kind}.{item.name}: {value!r} is not in {low} to {high}"
    elif item.kind == "COMBO" and not is_file(kind, item) and value not in choices:
        yield f"{kind}.{item.name}: {value!r} is not one of {choices}"
    elif item.kind == "STRING" and not isinstance(value, str):
        yield f"{kind}.{item.name}: {value!r} is no text"
    elif item.kind == "BOOLEAN" and not isinstance(value, bool):
        yield f"{kind}.{item.name}: {value!r} is neither true nor false"


def is_file(kind: str, item: Input) -> bool:
    """Whether the choices are files that are on this machine."""
    names = ("unet_name", "clip_name", "clip_name1", "clip_name2", "vae_name")
    return item.name in names or kind in ("VDiTLoadRecord", "VDiTLoadSource", "LoadVideo")


Box = tuple[float, float, float, float]


def whole_box(node: dict[str, Any]) -> Box:
    """Where a node stands with its title bar: x, y, width, height."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_BAR, width, height + TITLE_BAR


def overlap(a: Box, b: Box) -> bool:
    return all(a[i] < b[i] + b[i + 2] and b[i] < a[i] + a[i + 2] for i in (0, 1))


def holds(outer: Box, inner: Box) -> bool:
    inside = (
        outer[i] <= inner[i] and inner[i] + inner[i + 2] <= outer[i] + outer[i + 2] for i in (0, 1)
    )
    return all(inside)
