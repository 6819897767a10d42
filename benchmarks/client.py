"""Talk to a running ComfyUI server: queue workflows, wait for them, fetch what they make."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

# Straight to this machine, whatever proxy the user has set for the rest of the network.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerProblem(RuntimeError):
    """What went wrong between us and the server, in words for the person who started it."""


class WorkflowFailed(ServerProblem):
    """A workflow that the server refused, or that raised while it ran."""

    def __init__(self, node: str, message: str, traceback: str = "") -> None:
        super().__init__(f"the workflow failed at {node}: {message}")
        self.node = node
        self.message = message
        self.traceback = traceback


class WorkflowInterrupted(ServerProblem):
    """A workflow that was cancelled before its end."""


@dataclass(frozen=True)
class Progress:
    """How far one node of a running workflow has come."""

    node: str
    value: float
    maximum: float


class ComfyClient:
    """One client of the server at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client_id = uuid.uuid4().hex

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queue a workflow in API format and return its id; raise WorkflowFailed if refused."""
        body = {"prompt": prompt, "client_id": self.client_id}
        try:
            return self._json("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise refusal(prompt, error) from error

    def wait(
        self,
        prompt_id: str,
        on_progress: Callable[[Progress], None] | None = None,
        seconds: float = 600,
    ) -> dict[str, Any]:
        """Wait for a queued workflow and return its outputs by node id.

        `on_progress` is called from another thread. Raises WorkflowFailed, WorkflowInterrupted,
        TimeoutError after `seconds`, or what `check_alive` raises.
        """
        deadline = time.monotonic() + seconds
        with self._listening(prompt_id, on_progress):
            while not (entry := self.history(prompt_id)):
                self.check_alive()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"workflow {prompt_id} took over {seconds:.0f} s")
                time.sleep(0.1)
        raise_if_failed(entry["status"])
        return entry["outputs"]

    def run(
        self, prompt: dict[str, Any], on_progress: Callable[[Progress], None] | None = None
    ) -> dict[str, Any]:
        """Queue a workflow, wait for it, and return its outputs by node id."""
        return self.wait(self.queue(prompt), on_progress)

    def interrupt(self) -> None:
        """Cancel the workflow that is running."""
        self._bytes("/interrupt", {})

    def history(self, prompt_id: str) -> dict[str, Any]:
        """What the server kept of a finished workflow: `outputs` and `status`; empty before."""
        return self._json(f"/history/{prompt_id}").get(prompt_id, {})

    def view(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """The bytes of a file that a workflow has made."""
        query = {"filename": filename, "subfolder": subfolder, "type": type}
        return self._bytes(f"/view?{urllib.parse.urlencode(query)}")

    def object_info(self) -> dict[str, Any]:
        """The schema of every node the server knows, by node id."""
        return self._json("/object_info")

    def send(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """One request, posted if it has a body; the bytes of the answer."""
        data = None if body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, kind)
        try:
            with DIRECT.open(request, timeout=60) as response:
                return response.read()
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionError):
                raise error.reason from error
            raise

    def check_alive(self) -> None:
        """Raise a ServerProblem if the server is known to have ended; here nothing is known."""

    @contextmanager
    def _listening(
        self, prompt_id: str, on_progress: Callable[[Progress], None] | None
    ) -> Iterator[None]:
        if on_progress is None:
            yield
            return
        ended = threading.Event()
        follow = follow_progress(self.url, self.client_id, prompt_id, on_progress, ended)
        thread = threading.Thread(target=asyncio.run, args=(follow,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(5)

    def _json(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return json.loads(self._bytes(path, body))

    def _bytes(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        try:
            return self.send(path, body)
        except ConnectionError:
            time.sleep(0.5)  # a process that is being killed still counts as running for a moment
            self.check_alive()
            raise


def refusal(prompt: dict[str, Any], error: urllib.error.HTTPError) -> WorkflowFailed:
    """The exception for a workflow that did not pass the server's validation."""
    answer = json.loads(error.read())
    for node, found in answer.get("node_errors", {}).items():
        details = "; ".join(f"{e['message']}: {e['details']}" for e in found["errors"])
        return WorkflowFailed(f"node {node} ({prompt[node]['class_type']})", details)
    reason = answer["error"]
    return WorkflowFailed("validation", f"{reason['message']} {reason.get('details', '')}".strip())


def raise_if_failed(status: dict[str, Any]) -> None:
    """Raise what the history of a workflow says went wrong."""
    for kind, details in status["messages"]:
        if kind == "execution_interrupted":
            raise WorkflowInterrupted(f"the workflow was cancelled at node {details['node_id']}")
        if kind == "execution_error":
            node = f"node {details['node_id']} ({details['node_type']})"
            traceback = "".join(details["traceback"])
            raise WorkflowFailed(node, details["exception_message"].strip(), traceback)


async def follow_progress(
    url: str,
    client_id: str,
    prompt_id: str,
    on_progress: Callable[[Progress], None],
    ended: threading.Event,
) -> None:
    """Report the progress messages of one workflow until `ended` is set."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws", params={"clientId": client_id}) as socket_,
    ):
        while not ended.is_set():
            with suppress(asyncio.TimeoutError):
                message = await socket_.receive(timeout=0.2)
                if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING):
                    return
                if message.type is aiohttp.WSMsgType.TEXT:
                    report_progress(json.loads(message.data), prompt_id, on_progress)


def report_progress(
    event: dict[str, Any], prompt_id: str, on_progress: Callable[[Progress], None]
) -> None:
    """Pass on one message if it is about the progress of this workflow."""
    data = event.get("data", {})
    if event.get("type") == "progress" and data.get("prompt_id") == prompt_id:
        on_progress(Progress(data["node"], data["value"], data["max"]))
