"""Workflows of entropy: what is done where maps look widest, and followed where narrowest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..canvas import Canvas, Group
from ..stages import Stage
from ..workflow_notes import MOCHI as MOCHI_WEIGHTS
from ..workflow_notes import TOY as TOY_RESULTS
from ..workflow_notes import WAN as WAN_WEIGHTS
from ..worlds import MOCHI, TOY, WAN21, World

_ENHANCE = """## Act where attention looks widest

**VDiT Entropy Enhance** ranks the layers by row entropy in the first step of this very sampling,
and acts on the upper half from then on. Our reading of IE-Adapt (arXiv 2504.12027, Algorithm 1):
which layers, how and when is not known to us.
"""
_EDIT = """## Follow the source where it looks narrowest

**VDiT Entropy Transfer** lets the target use the source's maps in half of the layers. Which half
comes from a record of the source, sampled and watched first. Our reading of IE-Adapt
(arXiv 2504.12027, Algorithm 1).
"""

TOY_ENHANCE = f"""{TOY_RESULTS}{_ENHANCE}
**Look at** the stripes. *mix* and *temperature* flatten the maps: the stripes fade, and with *mix*
the circle moves. *guidance* goes away from a model without these maps: dark gets darker, light
gets lighter. Which of these is an enhancement, a measure has to say: see the demo's numbers.

**Try** `strength` = 1 with guidance, and `granularity` = `heads`. The node says what it chose.
"""
TOY_EDIT = f"""{TOY_RESULTS}{_EDIT}
**Look at** where the blue circle is, and how large. Low: nearly the red one's place and size. High:
the place it has in the target alone, but larger and less round.

**Try** `which` = `all`: the circle breaks. Or `selection` = `measured now`, which needs no record
and leaves the first step to the target.
"""
REAL_ENHANCE = """
**Look at** the line on the nodes, which says the layers they chose, and at fine detail. *guidance*
runs the model half as often again.

**Try** `share` and `strength`, and `first_steps` = 3.
"""
REAL_EDIT = """
**Look at** layout and motion: low keeps more of the source's if its structure is where the paper
says. The lines on the nodes name the layers.

**Try** `end_percent` = 0.4, and `granularity` = `heads`.
"""


def enhance(canvas: Canvas, world: World, note: str, modes: dict[str, float]) -> None:
    """One prompt untouched, and in each mode at a strength."""
    stage = Stage(canvas, world, note, {"Prompt": world.prompt})
    rows = {"Untouched": ("mix", 0.0)}
    rows |= {f"{mode}, strength {strength:g}": (mode, strength) for mode, strength in modes.items()}
    above: Group | None = None
    for title, (mode, strength) in rows.items():
        place = {"right_of": stage.left} if above is None else {"below": above}
        with canvas.group(title, across=True, colour="ours", **place) as above:
            inputs: dict[str, Any] = {"mode": mode, "strength": strength}
            model = canvas.add("VDiTEntropyEnhance", model=stage.model, **inputs)["MODEL"]
            file = f"entropy_enhance_{mode if strength else 'none'}"
            stage.save(stage.sample(model, stage.prompts[0]), title, file)


def edit(canvas: Canvas, world: World, note: str, watched: str, **asked: Any) -> None:
    """A pair that follows its source in the low half of the layers, and in the high half.

    watched: the steps at which the source is captured.
    """
    stage = Stage(
        canvas, world, note, {"Source prompt": world.prompt, "Target prompt": world.target}
    )
    source, target = stage.prompts
    title = "The source, watched"
    with canvas.group(title, across=True, colour="ours", right_of=stage.left) as above:
        looked: dict[str, Any] = {"steps": watched, "map_size": 16}
        capture = canvas.add("VDiTCapture", model=stage.model, **looked)
        latent = stage.sample(capture["MODEL"], source)
        stage.save(latent, "Source video", "entropy_edit_source")
    with canvas.group("Source and target in one batch", below=stage.left):
        pair = canvas.add("VDiTPairPrompts", source=source, target=target)["CONDITIONING"]
        both = canvas.add("VDiTPairLatent", latent=stage.latent)["LATENT"]
    asked |= {"selection": "from record", "record": capture["record"], "latent": latent}
    for which, meant in (("low", "narrowest"), ("high", "widest")):
        title = f"Its maps where it looks {meant}"
        with canvas.group(title, across=True, colour="ours", below=above) as above:
            transfer = canvas.add("VDiTEntropyTransfer", model=stage.model, which=which, **asked)
            model = transfer["MODEL"]
            halves = canvas.add("VDiTSplitPair", latent=stage.sample(model, pair, both))
            stage.save(halves["edited"], title, f"entropy_edit_{which}")
    with canvas.group("The target alone", across=True, colour="result", below=above):
        alone = stage.sample(stage.model, target)
        stage.save(alone, "The target alone", "entropy_edit_target")


WORKFLOWS: dict[str, Callable[[Canvas], None]] = {
    "toy_entropy_enhance": lambda c: enhance(
        c, TOY, TOY_ENHANCE, {"mix": 0.3, "temperature": 0.3, "guidance": 0.3}
    ),
    "toy_entropy_edit": lambda c: edit(c, TOY, TOY_EDIT, "all"),
    "wan21_entropy_enhance": lambda c: enhance(
        c, WAN21, WAN_WEIGHTS + _ENHANCE + REAL_ENHANCE, {"mix": 0.1, "guidance": 1.0}
    ),
    "wan21_entropy_edit": lambda c: edit(
        c, WAN21, WAN_WEIGHTS + _EDIT + REAL_EDIT, "0,mid", end_percent=0.8
    ),
    "mochi_entropy_edit": lambda c: edit(
        c, MOCHI, MOCHI_WEIGHTS + _EDIT + REAL_EDIT, "0,mid", region="video→video"
    ),
}
