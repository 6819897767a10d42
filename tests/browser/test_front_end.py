"""The real front end in a headless browser: it shows our nodes, loads a workflow, runs it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, sync_playwright
from vdit_attention.benchmarks.build_workflows import FOLDER, WORKFLOWS
from vdit_attention.benchmarks.client import DIRECT
from vdit_attention.benchmarks.server import ComfyServer

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 180_000  # milliseconds, for slow and busy machines
DRAWN = """id => {
    const node = app.graph.getNodeById(id)
    return node.imgs?.length && node.imgs.every(image => image.naturalWidth > 100)
}"""


def find_browser() -> str:
    if named := os.environ.get("VDIT_BROWSER"):
        return named
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail(
            "no browser for the browser tests; install Chromium or Chrome (Debian, Ubuntu: apt "
            "install chromium), or set VDIT_BROWSER to the path of one",
            pytrace=False,
        )
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


@pytest.fixture(scope="module")
def page(server: ComfyServer) -> Iterator[Page]:
    """The front end, ready, without its first dialog. Nothing outside this machine is reached."""

    def only_here(route: Route) -> None:
        if route.request.url.startswith((server.url, "data:", "blob:")):
            route.continue_()
        else:
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1920, "height": 1080})
        opened.set_default_timeout(PATIENCE)
        opened.route("**/*", only_here)
        opened.goto(server.url)
        opened.wait_for_function(
            "window.app?.graph && 'VDiTCapture' in LiteGraph.registered_node_types"
        )
        close_dialogs(opened)
        yield opened
        browser.close()


def close_dialogs(page: Page) -> None:
    """Close the templates dialog, which opens a moment after the first start."""
    dialog = page.get_by_role("dialog")
    dialog.first.wait_for()
    for _ in range(100):
        if not dialog.count():
            return
        if (button := dialog.first.get_by_role("button", name="Close dialog")).count():
            button.click()  # of older front ends, where Escape does not always do it
        else:
            page.keyboard.press("Escape")
        page.wait_for_timeout(300)
    pytest.fail("the front end keeps showing a dialog")


def test_our_nodes_are_registered(page: Page, server: ComfyServer) -> None:
    ours = {name for name in server.object_info() if name.startswith("VDiT")}
    known = page.evaluate("() => Object.keys(LiteGraph.registered_node_types)")
    assert len(ours) >= 13
    assert ours <= set(known)


def test_a_workflow_runs_and_shows_its_picture(page: Page, tmp_path: Path) -> None:
    workflow = json.loads((FOLDER / "toy_attention_maps.json").read_text("utf-8"))
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    maps = [node["id"] for node in workflow["nodes"] if node["type"] == "VDiTAttentionMap"]
    assert page.evaluate("() => app.graph.nodes.length") == len(workflow["nodes"])
    assert too_small_nodes(page) == []

    page.evaluate(
        """() => {
            window.ended = null
            for (const end of ["execution_success", "execution_error", "execution_interrupted"])
                app.api.addEventListener(end, event => { window.ended = [end, event.detail] })
        }"""
    )
    page.get_by_test_id("queue-button").click()
    page.wait_for_function("window.ended")
    end, detail = page.evaluate("window.ended")
    assert end == "execution_success", detail.get("exception_message", detail)
    for index in maps:
        page.wait_for_function(DRAWN, arg=index)
    page.wait_for_timeout(1000)  # until the canvas has drawn them
    page.screenshot(path=tmp_path / "front_end.png")


def test_heads_are_typed_or_wired(page: Page) -> None:
    """An input of two types: its widget keeps saved text, and a wire of VDIT_HEADS fits."""
    workflow = json.loads((FOLDER / "toy_skip_heads.json").read_text("utf-8"))
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    shown = page.evaluate(
        """() => app.graph.nodes.filter(node => node.type === "VDiTSkipHeads").map(
            node => node.widgets.find(widget => widget.name === "heads").value)"""
    )
    ours = [node for node in workflow["nodes"] if node["type"] == "VDiTSkipHeads"]
    assert len(ours) == 5
    assert shown == [node["widgets_values"][0] for node in ours]
    linked = page.evaluate(
        """() => {
            const [skip, random, load] = ["VDiTSkipHeads", "VDiTRandomHeads", "VDiTLoadRecord"].map(
                kind => LiteGraph.createNode(kind))
            for (const node of [skip, random, load]) app.graph.add(node)
            const slot = skip.inputs.findIndex(input => input.name === "heads")
            const wrong = Boolean(load.connect(0, skip, slot))
            return [wrong, Boolean(random.connect(0, skip, slot)), skip.inputs[slot].type]
        }"""
    )
    assert linked == [False, True, "STRING,VDIT_HEADS"]


def too_small_nodes(page: Page) -> list[Any]:
    """Nodes that the front end would draw larger than they are saved, over their neighbours."""
    return page.evaluate(
        """() => app.graph.nodes
            .filter(node => node.computeSize()[1] > node.size[1] + 1)
            .map(node => [node.type, [...node.size], [...node.computeSize()]])"""
    )


def test_every_node_has_a_help_page(server: ComfyServer) -> None:
    for name, schema in server.object_info().items():
        if name.startswith("VDiT"):
            pack = schema["python_module"].rpartition(".")[2]
            text = fetch(f"{server.url}/extensions/{pack}/docs/{name}.md")
            assert text.startswith("# ") and len(text) > 300, name


def test_workflows_are_offered_as_templates(server: ComfyServer) -> None:
    offered = json.loads(fetch(f"{server.url}/workflow_templates"))
    assert set(WORKFLOWS) <= {name for names in offered.values() for name in names}


def fetch(url: str) -> str:
    with DIRECT.open(url, timeout=60) as response:
        return response.read().decode()
