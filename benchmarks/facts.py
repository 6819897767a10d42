"""Where and with what a report was made."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from datetime import datetime, timezone
from pathlib import Path

import psutil

from .client import ComfyClient

PACK = Path(__file__).parent.parent


def gather_facts(server: ComfyClient, flag: str) -> dict[str, str]:
    """The machine, the versions, the date and the command, as lines of text."""
    stats = json.loads(server.send("/system_stats"))
    system = stats["system"]
    devices = ", ".join(device["name"] for device in stats["devices"])
    return {
        "Made with": f"python3 dev.py demo {flag}".strip(),
        "Date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "Machine": f"{processor()}, {os.cpu_count()} cores, {memory()}, computing on {devices}",
        "System": platform.platform(terse=True),
        "Versions": f"VDiT Attention {pack_version()}, ComfyUI {system['comfyui_version']}, "
        f"PyTorch {system['pytorch_version']}, Python {sys.version.split()[0]}",
    }


def processor() -> str:
    """The processor's name, as well as this system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (
        found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    ):
        return found.group(1)
    return platform.processor() or platform.machine()


def memory() -> str:
    return f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory"


def pack_version() -> str:
    """The version in pyproject.toml."""
    text = (PACK / "pyproject.toml").read_text("utf-8")
    found = re.search(r'^version = "([^"]+)"$', text, re.MULTILINE)
    return found.group(1) if found else "unknown"
