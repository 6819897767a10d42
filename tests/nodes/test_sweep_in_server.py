"""A sweep as users run it: the real server, its sampler once per layer, cancelled and resumed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vdit_attention.benchmarks.client import Progress, WorkflowFailed, WorkflowInterrupted
from vdit_attention.benchmarks.server import ComfyServer

STEPS = 3


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


def prompt(folder: str, layers: str = "all") -> dict[str, Any]:
    """A graph in API format: the toy model, a perturbed map in one layer after the other."""
    size = {"width": 64, "height": 64, "length": 5, "batch_size": 1}
    perturb = {"model": ["toy", 0], "map": "uniform", "strength": 1.0, "layers": "all"}
    perturb |= {"heads": "all", "start_percent": 0.0, "end_percent": 1.0, "branch": "both"}
    sweep = {"model": ["edit", 0], "layers": layers, "operation": "one layer at a time"}
    sampling = {"seed": 1, "steps": STEPS, "cfg": 2.0, "sampler_name": "euler", "denoise": 1.0}
    asked = {"measure": "difference", "spare": 1, "value": 0.9, "spared_value": 0.0}
    nodes: dict[str, Any] = {
        "toy": ("VDiTToyWorld", {"variant": "wan"}),
        "text": ("CLIPTextEncode", {"clip": ["toy", 1], "text": "a red circle falling"}),
        "none": ("CLIPTextEncode", {"clip": ["toy", 1], "text": ""}),
        "empty": ("EmptyHunyuanLatentVideo", size),
        "edit": ("VDiTPerturb", perturb),
        "sweep": ("VDiTLayerSweep", sweep | {"baseline": True, "resume": True, "folder": folder}),
        "sample": (
            "KSampler",
            {"model": ["sweep", 0], "latent_image": ["empty", 0], "scheduler": "simple"}
            | {"positive": ["text", 0], "negative": ["none", 0]}
            | sampling,
        ),
        "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["toy", 2]}),
        "report": ("VDiTSweepReport", {"videos": ["decode", 0], "labels": ["sweep", 1]} | asked),
        "table": ("PreviewAny", {"source": ["report", 3]}),
        "schedule": ("PreviewAny", {"source": ["report", 4]}),
        "save": ("SaveImage", {"images": ["report", 0], "filename_prefix": "grid"}),
    }
    return {name: {"class_type": kind, "inputs": i} for name, (kind, i) in nodes.items()}


def files(server: ComfyServer, folder: str) -> dict[str, int]:
    """Kept latents, and when they were written."""
    place: Path = server.base / "output" / folder
    return {p.name: p.stat().st_mtime_ns for p in place.glob("*.safetensors")}


def table(outputs: dict[str, Any]) -> list[list[str]]:
    (text,) = outputs["table"]["text"]
    return [line.split(",") for line in text.splitlines()]


def numbers(outputs: dict[str, Any]) -> dict[str, list[str]]:
    """Change and scores by label; ranks differ where there are more layers."""
    return {row[0]: row[3:] for row in table(outputs)}


def test_the_sampler_runs_once_per_layer_and_the_report_has_them_all(server: ComfyServer) -> None:
    outputs = server.run(prompt("all"))
    head, *rows = table(outputs)
    assert head[:4] == ["label", "layer", "rank", "change"]
    assert [row[0] for row in rows] == ["none", *(f"layer {n}" for n in range(6))]
    assert sorted(int(row[2]) for row in rows[1:]) == [1, 2, 3, 4, 5, 6]
    assert min(float(row[3]) for row in rows[1:]) > 0
    first = next(row[1] for row in rows if row[2] == "1")
    assert outputs["schedule"]["text"] == [f"all=0.9; {first}=0"]
    assert len(outputs["report"]["images"]) == len(outputs["save"]["images"]) == 1
    assert len(files(server, "all")) == 7


def test_cancelled_within_a_layer_it_goes_on_there(server: ComfyServer) -> None:
    steps: list[float] = []
    third = threading.Event()

    def hear(progress: Progress) -> None:
        if progress.node == "sample":
            steps.append(progress.value)
            if steps.count(1) == 3:
                third.set()

    def cancel() -> None:
        third.wait(300)
        server.interrupt()

    graph = prompt("cut", "1-3")
    graph["sample"]["inputs"]["steps"] = 40  # long enough to be cancelled within
    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(WorkflowInterrupted):
        server.wait(server.queue(graph), hear)
    thread.join()
    before = files(server, "cut")
    assert 1 <= len(before) <= 3
    resumed = numbers(server.run(graph))
    after = files(server, "cut")
    assert len(after) == 4 and before.items() <= after.items()
    graph["sweep"]["inputs"]["resume"] = False
    assert numbers(server.run(graph)) == resumed


def test_layers_that_are_added_are_the_only_ones_sampled(server: ComfyServer) -> None:
    first = numbers(server.run(prompt("more", "1-2")))
    before = files(server, "more")
    second = numbers(server.run(prompt("more", "0-3")))
    after = files(server, "more")
    assert len(after) == 5 and before.items() <= after.items()
    assert {label: second[label] for label in first} == first


def test_an_edit_that_does_nothing_there_is_refused_before_sampling(server: ComfyServer) -> None:
    graph = prompt("refused", "3,5")
    graph["edit"]["inputs"]["layers"] = "1-3"
    with pytest.raises(WorkflowFailed, match="changes nothing in layer 5, only in 1, 2, 3; set"):
        server.run(graph)
