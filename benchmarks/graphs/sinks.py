"""Attention sinks: found over two prompts, skipped, and as many random heads skipped instead."""

from __future__ import annotations

from collections.abc import Callable

from ..canvas import Canvas, Group, Socket
from ..stages import Stage, compare
from ..workflow_api import Json
from ..workflow_notes import MOCHI as ON_MOCHI
from ..workflow_notes import TOY as ON_TOY
from ..worlds import MOCHI, TOY_MOCHI, World

VIEWS = {  # by the title of their picture
    "Which heads are sinks?": "heads",
    "At every step?": "steps",
    "How small are the values there?": "values",
    "Where do they lie?": "places",
}


def sinks(
    canvas: Canvas,
    world: World,
    note: str,
    asked: Json,
    watched: Json,
    over: str,
) -> None:
    """Capture two prompts, merge, detect; skip what was found, skip as many others, compare.

    asked: weight, coverage and frequency of VDiT Detect Sinks. watched: inputs of VDiT Capture.
    """
    stage = Stage(
        canvas, world, note, {"First prompt": world.prompt, "Second prompt": world.target}
    )
    captures, latents = list[Socket](), list[Socket]()
    above: Group = stage.left
    for number, prompt in zip(("first", "second"), stage.prompts, strict=True):
        place: Json = {"below": above} if captures else {"right_of": above}
        with canvas.group(f"Watch the {number} prompt", colour="ours", **place) as above:
            chosen: Json = {"sinks": True, "tau": asked["weight"], **watched}
            capture = canvas.add("VDiTCapture", model=stage.model, **chosen)
            latents.append(stage.sample(capture["MODEL"], prompt))
            captures.append(capture["record"])
    with canvas.group("Both in one record", colour="ours", below=above):
        first, second = captures
        sources: Json = {
            "record": first,
            "latent": latents[0],
            "record_2": second,
            "latent_2": latents[1],
        }
        record = canvas.add("VDiTMergeRecords", **sources)["record"]
    found, beside = _look(canvas, world, record, asked, above)
    with canvas.group("All heads", across=True, colour="result", right_of=beside) as row:
        whole = stage.save(latents[0], "All heads", "sinks_all")
    model, prompt = stage.model, stage.prompts[0]
    with canvas.group("Without the sinks", across=True, colour="ours", below=row) as row:
        skipping = canvas.add("VDiTSkipHeads", model=model, heads=found)["MODEL"]
        without = stage.save(stage.sample(skipping, prompt), "Without the sinks", "sinks_skipped")
    title = "Without as many random heads"
    with canvas.group(title, across=True, colour="ours", below=row) as row:
        drawn = canvas.add("VDiTRandomHeads", model=model, heads=found, over=over, seed=1)
        canvas.add("PreviewAny", title="The random heads", source=drawn["text"])
        skipping = canvas.add("VDiTSkipHeads", model=model, heads=drawn["heads"])["MODEL"]
        random = stage.save(stage.sample(skipping, prompt), title, "sinks_random")
    with canvas.group("What did the sinks change?", across=True, colour="ours", below=row) as row:
        compare(canvas, whole, without, "All heads against without the sinks")
    with canvas.group("And the random heads?", across=True, colour="ours", below=row):
        compare(canvas, whole, random, "All heads against without random heads")


def _look(
    canvas: Canvas, world: World, record: Socket, asked: Json, left: Group
) -> tuple[Socket, Group]:
    """Draw every view of the record; returns the heads that were found, and the first group."""
    heads, groups = list[Socket](), list[Group]()
    for title, view in VIEWS.items():
        place: Json = {"below": groups[-1]} if groups else {"right_of": left}
        with canvas.group(title, across=True, colour="ours", **place) as group:
            shown = canvas.add("VDiTDetectSinks", title=title, record=record, view=view, **asked)
            file = f"vdit/{world.name}_sinks_{view}"
            canvas.add("SaveImage", title=title, images=shown["IMAGE"], filename_prefix=file)
            if not groups:
                canvas.add("PreviewAny", title="In numbers", wide=520, source=shown["report"])
        heads.append(shown["heads"])
        groups.append(group)
    return heads[0], groups[0]


TOY_NOTE = f"""{ON_TOY}## Which heads all look at one token?

Two prompts are captured and merged. **VDiT Detect Sinks** counts in how many calls over half of all
tokens give one token a weight of 0.1 or more: at the node's 0.3 this tiny Mochi has no such head
with these prompts. **VDiT Random Heads** draws as many others of the same layer.

**Look at** layer 2, head 3: mostly it looks at the first words of the prompt, in 60 % of the calls
so heavily. Its values there are larger than the others, not small as in the paper's sinks (arXiv
2504.10317, Figures 9 to 12), and the video changes more without it than without the random head.

**Try** another `seed` on VDiT Random Heads, `tau` on both VDiT Captures and `weight` = 0.05, or
`steps` = `all`.
"""

MOCHI_NOTE = f"""{ON_MOCHI}## Mochi's attention sinks

Heads in which over half of the tokens look heavily at one token (arXiv 2504.10317, §5). The paper
finds them in the last four layers, most in the last two, the same heads for every prompt; their
values are small (Figures 9, 11, 12). Skipping them all keeps quality, skipping as many others does
not (Figure 10). “Heavily” has no number there; here a weight of 0.3 or more.

**Look at** the heads found in both prompts, where they lie in time, and what the video without them
has lost against the one without as many others.

**Try** `layers` = `44-47` on both VDiT Captures to be faster, `tau` and `weight` = 0.1, another
`seed` on VDiT Random Heads.
"""

WORKFLOWS: dict[str, Callable[[Canvas], None]] = {
    "toy_sinks": lambda c: sinks(
        c,
        TOY_MOCHI,
        TOY_NOTE,
        {"weight": 0.1, "coverage": 0.5, "frequency": 0.5},
        {"steps": "0,5,10,15,-1", "map_size": 8},
        "each layer",
    ),
    "mochi_sinks": lambda c: sinks(
        c,
        MOCHI,
        MOCHI_NOTE,
        {"weight": 0.3, "coverage": 0.5, "frequency": 0.5},
        {"steps": "0,mid,-1", "map_size": 37},
        "all layers",
    ),
}
