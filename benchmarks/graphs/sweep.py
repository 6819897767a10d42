"""Workflows that study one layer at a time, and transfer between prompts far apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..canvas import Canvas, Node, Socket
from ..stages import Stage, transfer
from ..workflow_notes import MOCHI as OF_MOCHI
from ..workflow_notes import TOY as OF_TOY
from ..workflow_notes import WAN as OF_WAN
from ..worlds import MOCHI, TOY, WAN21, World

RANKING = "The change by layer"
TOY_FAR = replace(TOY, target="a blue square growing on a light background")
WAN21_FAR = replace(
    WAN21, target="a dog running through a meadow, side view, tracking camera, daylight"
)
FEW_OF_MOCHI = "0,12,24,36,44-47"

LAYER_SWEEP = f"""{OF_TOY}## What is each layer for?

**VDiT Perturb Attention** replaces the map of every layer by the uniform one; **VDiT Layer Sweep**
holds that edit to one layer after the other, and the sampler runs once for each. **VDiT Sweep
Report** ranks the layers by how far the video moves (arXiv 2504.12027, Fig. 1, 2, 5).

**Look at** the strips beside the ranking: which layer costs the object, which the background.

**Try** `operation` = `all but one`, or another edit in the place of VDiT Perturb Attention. Queue
it twice: finished layers are taken from their files.
"""

TRANSFER_SWEEP = f"""{OF_TOY}## Which layer carries the source?

Source and target side by side from the same noise, the source's attention map in one layer at a
time (arXiv 2504.10317, Fig. 5). The lower plot of the report places each layer between the source
video and the target's own.

**Look at** the lower plot: a layer whose video follows the source would lie to the left. Here none
does: with one layer transferred, all stay near the target's own. Layer 4 moves the circle most, to
where the source has it.

**Try** the far pair of *toy_transfer_far*, or `operation` = `all but one`.
"""

SPARSITY_SWEEP = f"""{OF_TOY}## Which layers need their small weights?

**VDiT Sparsity** drops 90 % of the weights, in one layer at a time (arXiv 2504.10317, Fig. 7b). The
report writes a schedule that spares the two layers that change most, and one wire takes it to
another VDiT Sparsity, which drops 90 % in all others.

**Look at** layer 0, which alone loses the stripes, and how little the others need. Then at the two
videos at the end: the stripes are faded in the first, and back where two layers are spared.

**Try** `spare` = 1 or 3 on VDiT Sweep Report, or `measure` = `SSIM`.
"""

TRANSFER_FAR = f"""{OF_TOY}## One video's maps, and words that share nothing with it

As *toy_transfer*, but every word of the target differs from the source. In Wan the paper saw the
video keep the source's structure and ignore the new prompt (arXiv 2504.10317, Fig. 2).

**Look at** the edit: with the maps of layers 1 to 4 it is the target's growing square on the
target's background, but it falls, on the source's path. One seed: a picture, not evidence.

**Try** `layers` = `all`, `0`, or a lower `strength`.
"""

WAN_TRANSFER_SWEEP = f"""{OF_WAN}## Which layer carries the source?

The source's attention map in one layer at a time (arXiv 2504.10317, Fig. 5).

**Look at** layer 3, which in the paper follows the source video, and at 0 and 19, which come out
close to the target's own.

**Try** `layers` = `all` for the whole figure: 31 samplings of a pair, and 5 GB of memory for the
videos. It can be cancelled and goes on where it stopped.
"""

WAN_TRANSFER_FAR = f"""{OF_WAN}## One video's maps, and words that share nothing with it

From a car to a dog: the paper saw the video keep the source's structure and ignore the new prompt
(arXiv 2504.10317, Fig. 2; the wording of the prompts is ours). Near pairs, such as *a red car*, are
in *wan21_transfer* (Fig. 3, 4).

**Look at** the edited video beside the target prompt alone.

**Try** *in the winter* added to the source prompt as the target, which worked in the paper, or
*a truck* for *a car*, which did so only in part.
"""

MOCHI_SPARSITY_SWEEP = f"""{OF_MOCHI}## Which layers need their small weights?

**VDiT Sparsity** drops 70 % of the weights in one layer at a time, exactly, which is slow (arXiv
2504.10317, Fig. 7b). The report writes a schedule that spares the two layers that change most.

**Look at** whether layers 44 and 45 rank first: other sources name these two as the ones that do
not tolerate it.

**Try** `layers` = `all`: 49 samplings, and 9 GB of memory for the videos. It can be cancelled and
goes on where it stopped. `mode` = `block` is much faster.
"""

MOCHI_TEMPERATURE_SWEEP = f"""{OF_MOCHI}## One number inside the softmax, in one layer

A lower temperature in one layer at a time: each token looks at fewer places there (arXiv
2504.10317, Fig. 8; its layers and values are not known).

**Look at** how different the videos are though one layer of 48 has changed, and whether they are
worse: the paper often finds them as good.

**Try** `temperature` = 2, or `layers` = `all`: 49 samplings. It can be cancelled and goes on where
it stopped.
"""


def layer_sweep(
    canvas: Canvas, world: World, note: str, node: str, edit: dict[str, Any], layers: str = "all"
) -> tuple[Stage, Node]:
    """One edit in one layer after the other; returns the stage and the report."""
    stage = Stage(canvas, world, note, {"Prompt": world.prompt})
    with canvas.group("One layer at a time", colour="ours"):
        edited = canvas.add(node, model=stage.model, **edit)["MODEL"]
        swept = canvas.add("VDiTLayerSweep", model=edited, layers=layers)
        latent = stage.sample(swept["MODEL"], stage.prompts[0])
    name = node.removeprefix("VDiT").lower()
    asked: dict[str, Any] = {"value": edit.get(name, 0.7)}
    asked["spared_value"] = 1.0 if name == "temperature" else 0.0
    found = report(canvas, stage, latent, swept["labels"], f"{name}_sweep", **asked)
    return stage, found


def sparsity_sweep(canvas: Canvas, world: World, note: str, rate: float, layers: str) -> None:
    """Sparsity in one layer after the other, and the schedule that comes of it."""
    edit: dict[str, Any] = {"sparsity": rate}
    stage, found = layer_sweep(canvas, world, note, "VDiTSparsity", edit, layers)
    for title, file, schedule in (
        (f"{100 * rate:.0f} % dropped in all layers", "all", ""),
        ("Spared as the report says", "scheduled", found["schedule"]),
    ):
        with canvas.group(title, across=True, colour="ours", below=canvas.groups[-1]):
            model = canvas.add("VDiTSparsity", model=stage.model, schedule=schedule, **edit)[
                "MODEL"
            ]
            stage.save(stage.sample(model, stage.prompts[0]), title, f"sparsity_sweep_{file}")


def transfer_sweep(canvas: Canvas, world: World, note: str, layers: str = "all") -> None:
    """The source's map in one layer after the other, placed between source and target."""
    prompts = {"Source prompt": world.prompt, "Target prompt": world.target}
    stage = Stage(canvas, world, note, prompts)
    source, target = stage.prompts
    with canvas.group("Source and target in one batch", colour="ours"):
        pair = canvas.add("VDiTPairPrompts", source=source, target=target)["CONDITIONING"]
        latent = canvas.add("VDiTPairLatent", latent=stage.latent)["LATENT"]
        model = canvas.add("VDiTTransfer", model=stage.model)["MODEL"]
        swept = canvas.add("VDiTLayerSweep", model=model, layers=layers)
    with canvas.group("Sample each pair, and the source alone"):
        halves = canvas.add("VDiTSplitPair", latent=stage.sample(swept["MODEL"], pair, latent))
        alone = stage.sample(stage.model, source)
        video = canvas.add("VAEDecode", samples=alone, vae=stage.loaded.vae)["IMAGE"]
    report(
        canvas, stage, halves["edited"], swept["labels"], "transfer_sweep", source=video, spare=0
    )


def report(
    canvas: Canvas, stage: Stage, latent: Socket, labels: Socket, file: str, **asked: Any
) -> Node:
    """Put the report of a sweep on the canvas, its pictures saved."""
    with canvas.group("Which layer changes what?", across=True, colour="ours"):
        videos = canvas.add("VAEDecode", samples=latent, vae=stage.loaded.vae)["IMAGE"]
        found = canvas.add("VDiTSweepReport", title=RANKING, videos=videos, labels=labels, **asked)
        for title, picture in (("Every layer", "grid"), (RANKING, "ranking")):
            name = f"vdit/{stage.world.name}_{file}_{picture}"
            canvas.add("SaveImage", title=title, images=found[picture], filename_prefix=name)
        canvas.add("PreviewAny", title="In numbers", wide=520, source=found["report"])
    return found


def _perturb_sweep(canvas: Canvas) -> None:
    edit = {"map": "uniform", "layers": "all"}
    layer_sweep(canvas, TOY, LAYER_SWEEP, "VDiTPerturb", edit)


def _temperature_sweep(canvas: Canvas) -> None:
    edit = {"temperature": 0.5}
    layer_sweep(canvas, MOCHI, MOCHI_TEMPERATURE_SWEEP, "VDiTTemperature", edit, FEW_OF_MOCHI)


WORKFLOWS: dict[str, Callable[[Canvas], None]] = {
    "toy_layer_sweep": _perturb_sweep,
    "toy_transfer_sweep": lambda c: transfer_sweep(c, TOY, TRANSFER_SWEEP),
    "toy_sparsity_sweep": lambda c: sparsity_sweep(c, TOY, SPARSITY_SWEEP, 0.9, "all"),
    "toy_transfer_far": lambda c: transfer(c, TOY_FAR, TRANSFER_FAR, "1-4"),
    "wan21_transfer_sweep": lambda c: transfer_sweep(c, WAN21, WAN_TRANSFER_SWEEP, "0,3,19"),
    "wan21_transfer_far": lambda c: transfer(c, WAN21_FAR, WAN_TRANSFER_FAR, "all"),
    "mochi_sparsity_sweep": lambda c: sparsity_sweep(
        c, MOCHI, MOCHI_SPARSITY_SWEEP, 0.7, FEW_OF_MOCHI
    ),
    "mochi_temperature_sweep": _temperature_sweep,
}
