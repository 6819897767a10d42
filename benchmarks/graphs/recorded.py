"""Workflows of recorded transfer: one source, sampled once, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..canvas import Canvas, Group
from ..stages import Stage
from ..workflow_notes import TOY as TOY_NOTE
from ..workflow_notes import WAN
from ..worlds import TOY, WAN21, World

_SHOWS = """## One source, many targets

**VDiT Record Source** keeps queries and keys of some layers while the source is sampled, and does
not change it. **VDiT Replay Source** samples other prompts with its maps, without sampling it
again.
"""
RECORDED = f"""{TOY_NOTE}{_SHOWS}
**Look at** the paths: the blue circle falls where the red one does. The green square, of which
every word differs, follows it less and loses its corners.

**Try** `strength` 0.5, or `end_percent` 0.4 on VDiT Replay Source. *toy_load_source* replays the
folder that this workflow writes.
"""
LOADED = f"""{TOY_NOTE}## A source from disk

Run **toy_recorded_transfer** first: it writes the folder that **VDiT Load Source** opens here.

**Look at** the video: another prompt with the same maps, and the source is not sampled at all.

**Try** other prompts and seeds; with another seed the noise is not the source's, and less fits.
"""
WAN_RECORDED = f"""{WAN}{_SHOWS}
**Look at** the line on VDiT Record Source: it says how much is kept, before anything is. Eight
layers for the first third of 30 steps take about 14 GB of RAM at this size.

**Try** `layers` = `3`, which the paper finds to follow the source most (arXiv 2504.10317, Fig. 5).
"""


def recorded(canvas: Canvas, world: World, note: str, targets: list[str], **kept: Any) -> None:
    """Keep a source, and replay it for some targets."""
    prompts = {"Source prompt": world.prompt}
    prompts |= {f"Target prompt {n}": text for n, text in enumerate(targets, 1)}
    stage = Stage(canvas, world, note, prompts)
    source, *others = stage.prompts
    where = {k: v for k, v in kept.items() if k in ("layers", "end_percent")}
    with canvas.group("The source, once", across=True, colour="ours", right_of=stage.left) as above:
        keeping = canvas.add("VDiTRecordSource", model=stage.model, **kept)
        latent = stage.sample(keeping["MODEL"], source)
        stage.save(latent, "Source video", "recorded_source")
    for n, prompt in enumerate(others, 1):
        title = f"Target {n}, with the source's maps"
        with canvas.group(title, across=True, colour="ours", below=above) as above:
            model = canvas.add(
                "VDiTReplaySource",
                model=stage.model,
                source=keeping["source"],
                latent=latent,
                **where,
            )["MODEL"]
            stage.save(stage.sample(model, prompt), title, f"recorded_{n}")


def loaded(canvas: Canvas, world: World, note: str, target: str, layers: str) -> None:
    """Replay a source from disk."""
    stage = Stage(canvas, world, note, {"Target prompt": target})
    place: dict[str, Group] = {"right_of": stage.left}
    with canvas.group("With the maps of the source", across=True, colour="ours", **place):
        folder = f"vdit/{world.name}_source_00001_"
        source = canvas.add("VDiTLoadSource", folder=folder, wide=320)["source"]
        replay = canvas.add("VDiTReplaySource", model=stage.model, source=source, layers=layers)
        latent = stage.sample(replay["MODEL"], stage.prompts[0])
        stage.save(latent, "Target, with the maps from disk", "recorded_loaded")


WORKFLOWS: dict[str, Callable[[Canvas], None]] = {
    "toy_recorded_transfer": lambda c: recorded(
        c,
        TOY,
        RECORDED,
        [TOY.target, "a green square falling on a light background"],
        layers="1-4",
        dtype="fp32",
        place="disk",
        filename_prefix="vdit/toy_source",
    ),
    "toy_load_source": lambda c: loaded(
        c, TOY, LOADED, "a yellow triangle falling on a dark background", "1-4"
    ),
    "wan21_recorded_transfer": lambda c: recorded(
        c,
        WAN21,
        WAN_RECORDED,
        [WAN21.target, "a car driving along a coastal road in the winter, side view"],
        layers="1-8",
        end_percent=0.33,
    ),
}
