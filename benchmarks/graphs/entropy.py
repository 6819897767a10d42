"""Workflows of entropy and energy by layer (2504.12027, Fig. 4), and of single words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..canvas import Canvas, Group, Node
from ..stages import Stage
from ..workflow_api import Json
from ..workflow_notes import MOCHI as MOCHI_WEIGHTS
from ..workflow_notes import TOY as TOY_RESULTS
from ..workflow_notes import WAN as WAN_WEIGHTS
from ..worlds import MOCHI, TOY, WAN21, World

PLOTS: dict[str, Json] = {
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


_HEATMAP = """## From where is a word looked at?

With `words` on, **VDiT Capture** keeps how much each place of the video looks at each word of the
prompt; **VDiT Token Heatmap** draws that over the decoded frames, and makes a mask of it, frame by
frame, for any node that takes one.
"""

TOY_HEATMAP = f"""{TOY_RESULTS}{_HEATMAP}
**Look at** the rows of the picture: “red”, “circle” and “falling” are looked at from the circle,
wherever it is, “striped” from everywhere but there.

**Try** `words` = `red circle` for a mask of the object, or `layers` = `0` and then `-1`.
"""

WAN_HEATMAP = f"""{WAN_WEIGHTS}{_HEATMAP}
The record is kept small: a few layers, one step, the positive prompt alone.

**Look at** the mask: does it follow the object?

**Try** other words of the prompt, `layers` = `15`, or `steps` = `0,mid,-1` on VDiT Capture.
"""

MOCHI_HEATMAP = WAN_HEATMAP.replace(WAN_WEIGHTS, MOCHI_WEIGHTS)


def token_heatmap(canvas: Canvas, world: World, note: str, words: str, **chosen: Any) -> None:
    """Capture where words are looked at from, and draw it over the video."""
    stage = Stage(canvas, world, note, {"Prompt": world.prompt})
    with canvas.group("Watch the model", colour="ours"):
        capture = canvas.add("VDiTCapture", model=stage.model, words=True, **chosen)
        latent = stage.sample(capture["MODEL"], stage.prompts[0])
    with canvas.group("The video, unchanged by watching", colour="result") as above:
        frames = stage.save(latent, "Video", "token_heatmap_video")
    title = "From where is each word looked at?"
    with canvas.group(title, across=True, colour="ours", below=above) as above:
        drawn = canvas.add(
            "VDiTTokenHeatmap",
            title=title,
            record=capture["record"],
            latent=latent,
            frames=frames,
            clip=stage.loaded.clip,
            words=words,
            text=world.prompt,
        )
        keep(canvas, drawn, title, f"{world.name}_token_heatmap", "sheet")
    with canvas.group("All these words", across=True, colour="result", below=above) as above:
        world.save(canvas, drawn["IMAGE"], "All these words", f"vdit/{world.name}_token_overlay")
    with canvas.group("The mask", across=True, colour="result", below=above):
        mask = canvas.add("MaskToImage", mask=drawn["mask"])["IMAGE"]
        world.save(canvas, mask, "The mask", f"vdit/{world.name}_token_mask")


def entropy(canvas: Canvas, world: World, note: str, **chosen: Any) -> None:
    """Capture one video, draw each quantity, and perturb the layers of either half."""
    stage = Stage(canvas, world, note, {"Prompt": world.prompt})
    with canvas.group("Watch the model", colour="ours"):
        capture = canvas.add("VDiTCapture", model=stage.model, energy=True, **chosen)
        latent = stage.sample(capture["MODEL"], stage.prompts[0])
    with canvas.group("The video, unchanged by watching", colour="result") as above:
        stage.save(latent, "Video", "entropy_video")
    plots: list[Node] = []
    place: dict[str, Group] = {"right_of": above}
    for title, asked in PLOTS.items():
        with canvas.group(title, across=True, colour="ours", **place) as above:
            how: Json = {"record": capture["record"], "latent": latent} | asked
            drawn = canvas.add("VDiTEntropyPlot", title=title, **how)
            keep(canvas, drawn, title, f"{world.name}_entropy_{len(plots)}")
            plots.append(drawn)
        place = {"below": above}
    halves = {
        "Blurred: the half that looks widely": plots[0]["high_layers"],
        "Blurred: the half that looks narrowly": plots[0]["low_layers"],
    }
    for number, (title, layers) in enumerate(halves.items()):
        with canvas.group(title, across=True, colour="ours", **place) as above:
            half: Json = {"map": "uniform", "strength": 0.5, "layers": layers}
            model = canvas.add("VDiTPerturb", model=stage.model, **half)["MODEL"]
            sampled = stage.sample(model, stage.prompts[0])
            stage.save(sampled, title, f"entropy_half_{number}")
        place = {"below": above}


def keep(canvas: Canvas, drawn: Node, title: str, file: str, output: str = "IMAGE") -> None:
    """Save a picture and show its table."""
    canvas.add("SaveImage", title=title, images=drawn[output], filename_prefix=f"vdit/{file}")
    canvas.add("PreviewAny", title=f"{title} In numbers", wide=420, source=drawn["report"])


WORKFLOWS: dict[str, Callable[[Canvas], None]] = {
    "toy_entropy": lambda c: entropy(c, TOY, TOY_ENTROPY, steps="0,4,8,12,16,19"),
    "wan21_entropy": lambda c: entropy(c, WAN21, WAN_ENTROPY, steps="0,mid,-1", branch="cond"),
    "toy_token_heatmap": lambda c: token_heatmap(
        c, TOY, TOY_HEATMAP, "red, circle, falling, striped"
    ),
    "wan21_token_heatmap": lambda c: token_heatmap(
        c, WAN21, WAN_HEATMAP, "car, coastal road", layers="10-20", branch="cond"
    ),
    "mochi_token_heatmap": lambda c: token_heatmap(
        c, MOCHI, MOCHI_HEATMAP, "car, coastal road", layers="16-32", branch="cond"
    ),
    "mochi_entropy": lambda c: entropy(c, MOCHI, MOCHI_ENTROPY, steps="mid", branch="cond"),
}
