"""How well the toy world does what its prompts say: 64 held-out seeds, read from the pixels."""

from __future__ import annotations

import torch

from ...vdit_core.host.toy_evaluation import evaluate, parse
from ..checks import Check, at_least


def run(quick: bool = False) -> list[Check]:
    """Share of clips whose colour, shape, background and motion are right; the VAE's PSNR."""
    seeds = 16 if quick else 64
    with torch.inference_mode():
        measured = evaluate(parse(["--seeds", str(seeds)]))["checks"]
    return [
        at_least(
            check["name"],
            check["value"],
            check["limit"],
            check["unit"],
            note=f"{seeds} held-out clips" + _beside_chance(check),
        )
        for check in measured
    ]


def _beside_chance(check: dict[str, float]) -> str:
    return f"; chance is {check['chance']:.0%}" if "chance" in check else ""
