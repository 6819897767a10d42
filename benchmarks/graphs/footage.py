"""Workflows that edit a loaded video: footage as the source of a pair, with and without a mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..canvas import Canvas, Group, Socket
from ..stages import Stage
from ..workflow_notes import TOY as TOY_NOTE
from ..workflow_notes import WAN
from ..worlds import TOY, WAN21, World

_SHOWS = """## Edit a video that no model made

**VDiT Video Source** puts the footage, with as much noise as the edit has left, in the place of a
pair's source, at every step. No inversion: the edit begins from noise and uses the footage's
attention maps. With a mask the rest of the picture stays the footage.
"""
TOY_FOOTAGE = f"""{TOY_NOTE}{_SHOWS}
**Look at** the edit with a mask: a blue circle on the red one's path, and the footage's stripes.
Without a mask, by its maps in layers 1 to 4, the circle moves towards the footage's place and size;
the stripes are the model's own.

**Try** `hold_background` off; `expand` 3 on Grow Mask; another shape in the target prompt;
`denoise` 0.7 on the sampler, with which the edit, too, begins from the footage.
"""
WAN_FOOTAGE = f"""{WAN}{_SHOWS}
**First** choose your video in **Load Video**, say what it shows in the source prompt and what it is
to show in the target prompt. 33 frames are taken, scaled to 832 × 480.

**A mask** goes to `mask`: a picture drawn once for all frames (Load Image), or a black and white
video of the same frames (Load Video, Get Video Components, Convert Image to Mask). Draw
generously: what is drawn in part is edited in part.

**Look at** what of the footage's layout and motion the edit keeps.

**Try** fewer `layers`, `end_percent` 0.5, or `denoise` 0.8 on the sampler, with which the edit also
begins from the footage.
"""
CLIP_SEED = 5  # a circle at the left, where the sampler's seed has none
FOOTAGE = "footage.mp4"  # in ComfyUI's input folder; whoever opens the workflow chooses another


def edited(stage: Stage, pair: Socket, video: Socket, title: str, file: str, **how: Any) -> None:
    """Sample the pair with the video as its source, and save the edit."""
    node = stage.canvas.add("VDiTVideoSource", model=stage.model, video=video, **how)
    latent = stage.sample(node["MODEL"], pair, node["latent"])
    halves = stage.canvas.add("VDiTSplitPair", latent=latent)
    stage.save(halves["edited"], title, file)


def toy_footage(canvas: Canvas) -> None:
    """A rendered clip, edited in its mask, and what the same prompt gives alone."""
    prompts = {"Source prompt": TOY.prompt, "Target prompt": TOY.target}
    stage = Stage(canvas, TOY, TOY_FOOTAGE, prompts)
    source, target = stage.prompts
    with canvas.group("Footage", right_of=stage.left) as loaded:
        clip = canvas.add("VDiTToyClip", prompt=TOY.prompt, seed=CLIP_SEED)
        mask = canvas.add("GrowMask", mask=clip["MASK"], expand=6)["MASK"]
        encoded = canvas.add("VAEEncode", pixels=clip["IMAGE"], vae=stage.loaded.vae)["LATENT"]
        pair = canvas.add("VDiTPairPrompts", source=source, target=target)["CONDITIONING"]
        TOY.save(canvas, clip["IMAGE"], "Footage", "vdit/toy_footage")
    ways: dict[str, Any] = {
        "Edited where the mask is": {"mask": mask, "strength": 0.0},
        "Edited everywhere, by its maps": {"layers": "1-4"},
    }
    place: dict[str, Group] = {"right_of": loaded}
    for n, (title, how) in enumerate(ways.items()):
        with canvas.group(title, across=True, colour="ours", **place) as above:
            edited(stage, pair, encoded, title, f"footage_{n}", **how)
        place = {"below": above}
    title = "The target prompt alone, same seed"
    with canvas.group(title, across=True, colour="result", **place):
        stage.save(stage.sample(stage.model, target), title, "footage_alone")


def footage(canvas: Canvas, world: World, note: str) -> None:
    """A loaded video, scaled to the model's size, and its edit."""
    prompts = {"Source prompt": world.prompt, "Target prompt": world.target}
    stage = Stage(canvas, world, note, prompts, empty=False)
    source, target = stage.prompts
    size: dict[str, Any] = {k: world.size[k] for k in ("width", "height")}
    with canvas.group("Footage", right_of=stage.left):
        video = canvas.add("LoadVideo", title="Your video", file=FOOTAGE)["VIDEO"]
        images = canvas.add("GetVideoComponents", video=video)["images"]
        frames = canvas.add(
            "ImageFromBatch", image=images, batch_index=0, length=world.size["length"]
        )
        scaled = canvas.add(
            "ImageScale", image=frames["IMAGE"], upscale_method="lanczos", crop="center", **size
        )
        encoded = canvas.add("VAEEncode", pixels=scaled["IMAGE"], vae=stage.loaded.vae)["LATENT"]
        pair = canvas.add("VDiTPairPrompts", source=source, target=target)["CONDITIONING"]
    with canvas.group("The edit", across=True, colour="ours"):
        edited(stage, pair, encoded, "Edited video", "footage_edited")


WORKFLOWS: dict[str, Callable[[Canvas], None]] = {
    "toy_edit_footage": toy_footage,
    "wan21_edit_footage": lambda canvas: footage(canvas, WAN21, WAN_FOOTAGE),
}
