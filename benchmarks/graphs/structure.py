"""Workflows of attention's structure and of text attention (2504.10317, Fig. 1 and 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..canvas import Canvas, Group, Node, Socket
from ..stages import Stage
from ..workflow_notes import MOCHI as MOCHI_WEIGHTS
from ..workflow_notes import TOY as TOY_RESULTS
from ..workflow_notes import WAN as WAN_WEIGHTS
from ..worlds import MOCHI, TOY, TOY_MOCHI, WAN21, World

FAR = "a dog walking through a snowy forest, front view, static camera, dusk"
FAR_TOY = "a yellow ring growing on a dark background"
VIEWS = {
    "How far does it look?": "by distance",
    "Which frame looks at which?": "frame by frame",
    "Which places are looked at?": "looked at",
    "Which places look widely?": "looks widely",
    "Is it the same for another prompt?": "similarity",
}

_STRUCTURE = """## Where does it look?

Fig. 1 of the paper in numbers. **VDiT Capture** measures two samplings with two prompts; **VDiT
Structure** draws the first one's maps by distance, from frame to frame and on the video itself, and
compares them with the second one's.
"""

TOY_STRUCTURE = f"""{TOY_RESULTS}{_STRUCTURE}
**Look at** how each frame looks most at itself and less at those farther away; at layer 4, where
the circle's own places look around the least; and at the last picture: each layer is most alike to
the same layer under the other prompt (0.89), less to the other layers (0.65).

**Try** `head` = `all` in the last picture, or `layer` = `3` and `head` = `all` in the third.
"""

WAN_STRUCTURE = f"""{WAN_WEIGHTS}{_STRUCTURE}
**Look at** the ring and the dot in the last picture: only what the dot has more than the ring is
the layer's own.

**Try** `map_size` = 360 on both captures, or the same `layer` at other steps.
"""

MOCHI_STRUCTURE = f"""{MOCHI_WEIGHTS}{_STRUCTURE}
**Look at** layers 44 to 47 in *Which places are looked at?*: the paper finds sinks there, mostly in
the first latent frame. A few layers are captured, at the positive prompt alone: a number for each
of 44,520 video tokens, head and layer adds up.

**Try** `layer` = `44-47` and `head` = `0,8,16`.
"""

_TEXT = """## What does each word receive?

Fig. 6 of the paper. With `text` on, **VDiT Capture** also measures how much the video looks at each
token of the prompt; **VDiT Text Attention** draws it layer by layer, with the words from the
tokenizer of the text encoder. Orange: the first token's share, dotted: an even share.
"""

TOY_TEXT = f"""{TOY_RESULTS}{_TEXT}
**Look at** “red”, the word that four of six layers look at most. The paper finds that Mochi attends
mostly to the first token; this tiny Mochi, whose first word is always “a”, gives it no more than an
even share or little more. Its two “a” are alike: its words have no place in the sentence.

**Try** `step` = `0` after `steps` = `0,mid,-1` on VDiT Capture.
"""

MOCHI_TEXT = f"""{MOCHI_WEIGHTS}{_TEXT}
**Look at** the first token: the paper finds that Mochi attends mostly to it, and that in its second
layer text attends to text (rings, at the right). A word is one token or several; `</s>` ends the
prompt.

**Try** another prompt, and write it into VDiT Text Attention too.
"""

WAN_TEXT = f"""{WAN_WEIGHTS}{_TEXT}
Wan attends to text in cross-attention of its own, which is measured in the same layers. Its prompts
are padded to 512 tokens, and the padding is attended to as well: it is drawn as one sum.

**Look at** how much goes to the padding, and which words stand out.

**Try** `branch` = `uncond` with the negative prompt as `text`.
"""


def structure(canvas: Canvas, world: World, note: str, **chosen: Any) -> None:
    """Capture two prompts, and draw every view of the first one's record."""
    stage = Stage(canvas, world, note, {"Prompt": world.prompt, "Another prompt": world.target})
    with canvas.group("Watch the model", colour="ours") as first:
        record, latent = _watched(canvas, stage, 0, chosen)
    with canvas.group("Another prompt", colour="ours", below=first) as last:
        other, other_latent = _watched(canvas, stage, 1, chosen)
    with canvas.group("The video, unchanged by watching", colour="result", below=last):
        images = stage.save(latent, "Video", "structure")
    place: dict[str, Group] = {"right_of": last}
    for title, view in VIEWS.items():
        with canvas.group(title, across=True, colour="ours", **place) as above:
            more: dict[str, Any] = {"images": images} if view.startswith("look") else {}
            if view == "similarity":
                more = {"other": other, "other_latent": other_latent}
            drawn = canvas.add(
                "VDiTStructure",
                title=title,
                record=record,
                latent=latent,
                view=view,
                **more,
            )
            _keep(canvas, drawn, title, f"{world.name}_structure_{view.replace(' ', '_')}")
        place = {"below": above}


def _watched(
    canvas: Canvas, stage: Stage, prompt: int, chosen: dict[str, Any]
) -> tuple[Socket, Socket]:
    """Capture one of the stage's prompts: its record and its latent."""
    on: dict[str, Any] = {"sinks": True, "structure": True} | chosen
    capture = canvas.add("VDiTCapture", model=stage.model, **on)
    return capture["record"], stage.sample(capture["MODEL"], stage.prompts[prompt])


def text_attention(canvas: Canvas, world: World, note: str) -> None:
    """Capture what the prompt's tokens receive, and draw it with its words."""
    stage = Stage(canvas, world, note, {"Prompt": world.prompt})
    with canvas.group("Watch the model", colour="ours"):
        capture = canvas.add("VDiTCapture", model=stage.model, text=True)
        latent = stage.sample(capture["MODEL"], stage.prompts[0])
    with canvas.group("The video, unchanged by watching", colour="result"):
        stage.save(latent, "Video", "text_attention")
    title = "What does each word receive?"
    with canvas.group(title, across=True, colour="ours"):
        drawn = canvas.add(
            "VDiTTextAttention",
            title=title,
            record=capture["record"],
            latent=latent,
            clip=stage.loaded.clip,
            text=world.prompt,
        )
        _keep(canvas, drawn, title, f"{world.name}_text_attention")


def _keep(canvas: Canvas, drawn: Node, title: str, file: str) -> None:
    canvas.add("SaveImage", title=title, images=drawn["IMAGE"], filename_prefix=f"vdit/{file}")
    canvas.add("PreviewAny", title=f"{title} In numbers", wide=420, source=drawn["report"])


WORKFLOWS: dict[str, Callable[[Canvas], None]] = {
    "toy_structure": lambda c: structure(
        c, replace(TOY, target=FAR_TOY), TOY_STRUCTURE, map_size=80
    ),
    "toy_mochi_text_attention": lambda c: text_attention(c, TOY_MOCHI, TOY_TEXT),
    "wan21_structure": lambda c: structure(
        c, replace(WAN21, target=FAR), WAN_STRUCTURE, map_size=216, branch="cond"
    ),
    "wan21_text_attention": lambda c: text_attention(c, WAN21, WAN_TEXT),
    "mochi_structure": lambda c: structure(
        c,
        replace(MOCHI, target=FAR),
        MOCHI_STRUCTURE,
        layers="0,12,24,36,44-47",
        branch="cond",
        map_size=210,
    ),
    "mochi_text_attention": lambda c: text_attention(c, MOCHI, MOCHI_TEXT),
}
