"""Run the real ComfyUI server with this pack in it, from its start to its end.

    with ComfyServer() as server:
        outputs = server.run(prompt)

`python -m vdit_attention.benchmarks.server` runs it for a person, in a browser.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from .client import ComfyClient, ServerProblem

PACKS = Path(__file__).parent.parent.parent  # holds this pack under its import name
LOG_LINES = 30
READY_SECONDS = 120


class ServerDied(ServerProblem):
    """The server ended, or never answered; the message ends with its last log lines."""


class ComfyServer(ComfyClient):
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
        super().__init__(f"http://127.0.0.1:{self.port}")
        self._arguments = arguments
        self._packs = packs
        self._process: subprocess.Popen[bytes] | None = None

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

    def check_alive(self) -> None:
        """Raise ServerDied if the server has ended."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise ServerDied(f"ComfyUI ended with status {status}:\n{self.log_tail()}")

    def wait_until_ended(self) -> None:
        """Return never: raise ServerDied when the server ends."""
        while True:
            self.check_alive()
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
            self.check_alive()
            with suppress(OSError):
                self.send("/system_stats")
                return
            time.sleep(0.2)
        raise ServerDied(f"ComfyUI did not answer within {READY_SECONDS} s:\n{self.log_tail()}")


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
