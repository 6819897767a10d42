"""Run the real ComfyUI server with this pack in it, queue workflows, fetch what they make.

    with ComfyServer() as server:
        prompt_id = server.queue(prompt)
        outputs = server.wait(prompt_id)

`python -m vdit_attention.benchmarks.server` runs it for a person, in a browser.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

PACKS = Path(__file__).parent.parent.parent  # holds this pack under its import name
LOG_LINES = 30
READY_SECONDS = 120


class ServerProblem(RuntimeError):
    """What went wrong between us and the server, in words for the person who started it."""


class ServerDied(ServerProblem):
    """The server ended, or never answered; the message ends with its last log lines."""


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


class ComfyServer:
    """A ComfyUI server in a process of its own; it ends with the `with` block.

    Args:
        base: Folder for its models, input, output, temp and user files; a temporary one if None.
        port: Port to listen on; a free one if None.
        arguments: More command line arguments for ComfyUI.
        packs: Folder whose subfolders are loaded as custom nodes; None loads none but ComfyUI's.
    """

    def __init__(
        self,
        base: Path | None = None,
        port: int | None = None,
        arguments: Sequence[str] = (),
        packs: Path | None = PACKS,
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.base = Path(self._temporary.name) if base is None else base
        self.port = free_port() if port is None else port
        self.log = self.base / "server.log"
        self.client_id = uuid.uuid4().hex
        self._arguments = arguments
        self._packs = packs
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the server and of its page."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ComfyServer:
        check_port(self.port)
        for folder in ("models", "input", "output", "temp", "user", "custom_nodes"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                self._command(), cwd=self.base, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the server and remove its temporary folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self._process.kill()
            self._process.wait()
        self._temporary.cleanup()

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
        ServerDied, or TimeoutError after `seconds`.
        """
        deadline = time.monotonic() + seconds
        with self._listening(prompt_id, on_progress):
            while not (entry := self.history(prompt_id)):
                self._check_alive()
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

    def wait_until_ended(self) -> None:
        """Return never: raise ServerDied when the server ends."""
        while True:
            self._check_alive()
            time.sleep(0.5)

    def log_tail(self, lines: int = LOG_LINES) -> str:
        """The last lines the server has written."""
        return "\n".join(self.log.read_text("utf-8", errors="replace").splitlines()[-lines:])

    def _command(self) -> list[str]:
        command = [
            sys.executable,
            "-u",
            str(comfyui_folder() / "main.py"),
            "--port",
            str(self.port),
        ]
        command += ["--base-directory", str(self.base), "--disable-auto-launch"]
        command += ["--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}"]
        if self._packs is not None:
            paths = self.base / "extra_model_paths.yaml"
            paths.write_text(json.dumps({"packs": {"custom_nodes": str(self._packs)}}), "utf-8")
            command += ["--extra-model-paths-config", str(paths)]
        return [*command, *device_arguments(), *self._arguments]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            self._check_alive()
            with suppress(OSError):
                self._send("/system_stats")
                return
            time.sleep(0.2)
        raise ServerDied(f"ComfyUI did not answer within {READY_SECONDS} s:\n{self.log_tail()}")

    def _check_alive(self) -> None:
        if self._process is not None and (status := self._process.poll()) is not None:
            raise ServerDied(f"ComfyUI ended with status {status}:\n{self.log_tail()}")

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
            return self._send(path, body)
        except ConnectionError:
            time.sleep(0.5)  # a process that is being killed still counts as running for a moment
            self._check_alive()
            raise

    def _send(self, path: str, body: dict[str, Any] | None = None) -> bytes:
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


# Straight to this machine, whatever proxy the user has set for the rest of the network.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def comfyui_folder() -> Path:
    """The ComfyUI this process can import."""
    named = os.environ.get("VDIT_COMFYUI")
    if named is None:
        raise ServerProblem("no ComfyUI here; start this through dev.py, or set VDIT_COMFYUI")
    return Path(named)


def device_arguments() -> list[str]:
    """What ComfyUI must be told about this machine."""
    import torch

    if torch.accelerator.is_available():
        return []
    return ["--cpu", "--use-pytorch-cross-attention"]


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check_port(port: int) -> None:
    """Raise a ServerProblem when somebody listens on this port already."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise ServerProblem(
                f"port {port} is taken; choose another with --port, or leave it out"
            )


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


def main() -> int:
    """Run the server until Ctrl-C; open it in the user's browser unless told not to."""
    parser = argparse.ArgumentParser(prog="dev.py ui", description=main.__doc__)
    parser.add_argument("--base", type=Path, help="folder for models, input, output, user files")
    parser.add_argument("--port", type=int, help="port to listen on (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    options, arguments = parser.parse_known_args()
    try:
        print("Starting ComfyUI ...", flush=True)
        with ComfyServer(options.base, options.port, arguments) as server:
            print(
                f"ComfyUI is at {server.url}; its log is {server.log}. Ctrl-C ends it.", flush=True
            )
            if not options.no_browser:
                webbrowser.open(server.url)
            server.wait_until_ended()
    except ServerProblem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nComfyUI has ended.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
