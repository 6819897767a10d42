"""Transfer on near pairs: only the colour word differs."""

from __future__ import annotations

from ..checks import Check
from ..transfer import study


def run(quick: bool = False) -> list[Check]:
    """Kept structure and obeyed prompt, without transfer and with every way to transfer."""
    return study("near", quick)
