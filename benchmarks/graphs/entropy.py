"""Workflows of entropy and energy by layer (2504.12027, Fig. 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..canvas import Canvas, Group, Node
from ..stages import Stage
from ..workflow_notes import MOCHI as MOCHI_WEIGHTS
from ..workflow_notes import TOY as TOY_RESULTS
from ..workflow_notes import WAN as WAN_WEIGHTS
from ..worlds import MOCHI, TOY, WAN21, World

PLOTS = {
    "How widely does each layer look?": {"quantity": "entropy share"},
    "How much does it put out?": {"quantity": "energy proportion"},
    "Within its own frame": {"quantity": "spatial entropy share"},
    "At its own place over time": {"quantity": "temporal entropy share"},
    "Head by head": {"quantity": "entropy share", "granularity": "heads"},
}

_ENTROPY = """## Which layers look widely, and which narrowly?

Fig. 4 of the second paper. With `energy` on, **VDiT Capture** also measures the energy of each
layer's output, and apart from one another what a token does within its own frame (spatial) and at
its own place over the frames (temporal); that reading is ours. **VDiT Entropy Plot** draws them,
and gives the layers of the highest and of the lowest half by wires.
"""

TOY_ENTROPY = f"""{TOY_RESULTS}{_ENTROPY}
**Look at** layer 0, which looks most widely at every step, and at the energy, most of which is in
the last layers, whose places look at few moments of their own past and future. In the two videos at
the end half of each map is replaced by the uniform one: in the layers that look widely this costs
the circle some of its size, in the others the stripes and the last frames.

**Try** `share` = 0.2, or `quantity` = `temporal mass`.
"""

WAN_ENTROPY = f"""{WAN_WEIGHTS}{_ENTROPY}
**Look at** the two videos at the end: half of each map replaced by the uniform one, in the layers
that look widely and in those that look narrowly. The paper ties maps of high entropy to a video's
quality, those of low entropy to the structure within a frame.

**Try** `share` = 0.2, or `quantity` = `temporal mass`.
"""

MOCHI_ENTROPY = WAN_ENTROPY.replace(WAN_WEIGHTS, MOCHI_WEIGHTS)


def entropy(canvas: Canvas, world: World, note: str, **chosen: Any) -> None:
    """Capture one video, draw each quantity, and perturb the layers of either half."""
    stage = Stage(canvas, world, note, {"Prompt": world.prompt})
    with canvas.group("Watch the model", colour="ours"):
        capture = canvas.add("VDiTCapture", model=stage.model, energy=True, **chosen)
        latent = stage.sample(capture["MODEL"], stage.prompts[0])
    place: dict[str, Group] = {}
    plots: list[Node] = []
    for title, asked in PLOTS.items():
        with canvas.group(title, across=True, colour="ours", **place) as above:
            record = {"record": capture["record"], "latent": latent}
            drawn = canvas.add("VDiTEntropyPlot", title=title, **record, **asked)
            keep(canvas, drawn, title, f"{world.name}_entropy_{len(plots)}")
            plots.append(drawn)
        place = {"below": above}
    with canvas.group("The video, unchanged by watching", colour="result", **place) as above:
        stage.save(latent, "Video", "entropy_video")
    halves = {
        "Blurred: the half that looks widely": plots[0]["high_layers"],
        "Blurred: the half that looks narrowly": plots[0]["low_layers"],
    }
    for number, (title, layers) in enumerate(halves.items()):
        with canvas.group(title, across=True, colour="ours", below=above) as above:
            half = {"map": "uniform", "strength": 0.5, "layers": layers}
            model = canvas.add("VDiTPerturb", model=stage.model, **half)["MODEL"]
            sampled = stage.sample(model, stage.prompts[0])
            stage.save(sampled, title, f"entropy_half_{number}")


def keep(canvas: Canvas, drawn: Node, title: str, file: str) -> None:
    """Save a picture and show its table."""
    canvas.add("SaveImage", title=title, images=drawn["IMAGE"], filename_prefix=f"vdit/{file}")
    canvas.add("PreviewAny", title=f"{title} In numbers", wide=420, source=drawn["report"])


WORKFLOWS: dict[str, Callable[[Canvas], None]] = {
    "toy_entropy": lambda c: entropy(c, TOY, TOY_ENTROPY, steps="all"),
    "wan21_entropy": lambda c: entropy(c, WAN21, WAN_ENTROPY, steps="0,mid,-1", branch="cond"),
    "mochi_entropy": lambda c: entropy(c, MOCHI, MOCHI_ENTROPY, steps="mid", branch="cond"),
}
