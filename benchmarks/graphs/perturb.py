"""Workflows that take one layer's map away after the other, ranked in two ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..canvas import Canvas
from ..stages import Stage
from ..workflow_notes import MOCHI as OF_MOCHI
from ..workflow_notes import TOY as OF_TOY
from ..workflow_notes import WAN as OF_WAN
from ..worlds import MOCHI, TOY, WAN21, World
from .sweep import FEW_OF_MOCHI

FEW_OF_WAN = "0,3,10,15,19,25,29"
STRUCTURE, STEADINESS = "Structure: 1 − SSIM by layer", "Steadiness: consistency by layer"

_WHAT = """**VDiT Perturb Attention** replaces a layer's map by the identity: each token sees only
itself. **VDiT Layer Sweep** does so in one layer after the other (arXiv 2504.12027, Fig. 1, 2, 5).
One **VDiT Sweep Report** ranks the layers by structure (1 − SSIM, where the paper takes LPIPS),
another by the change of temporal consistency; the tables have every measure.
"""

TOY_PERTURB = f"""{OF_TOY}## What does a layer give, when its map is gone?

{_WHAT}
**Look at** both rankings: they need not agree. Then at the strips: what is lost with each layer.

**Try** `map` = `uniform`, `strength` = 0.5 for a mixture, or `measure` = `sharpness`.
"""

WAN_PERTURB = f"""{OF_WAN}## What does a layer give, when its map is gone?

{_WHAT}
**Look at** whether layers with even maps (see VDiT Statistics, *entropy share*) cost the video's
quality, and layers with narrow maps the structure of its frames, as the paper finds.

**Try** `layers` = `all` for the whole figure: 31 samplings. `lpips` on, once its two files are
there (the node's help says which), and Load CLIP Vision connected to `clip_vision`.
"""

MOCHI_PERTURB = f"""{OF_MOCHI}## What does a layer give, when the video's map of itself is gone?

The uniform map in one layer after the other, with `region` = `video→video`: how the video attends
to the text stays as it is, so that what is lost is not the prompt (arXiv 2504.12027, Fig. 1, 2, 5;
the region is ours). Ranked by structure (1 − SSIM) and by the change of temporal consistency.

**Look at** both rankings, and at the strips.

**Try** `map` = `identity`, or `region` = `all` for the paper's own replacement of the whole map.
"""


def perturb_sweep(
    canvas: Canvas,
    world: World,
    note: str,
    layers: str = "all",
    probed: int | None = None,
    **edit: Any,
) -> None:
    """One layer's map replaced after the other, two rankings of the same videos.

    probed: steps, where fewer than the world's are enough.
    """
    stage = Stage(canvas, world, note, {"Prompt": world.prompt})
    with canvas.group("One layer at a time", colour="ours"):
        edited = canvas.add("VDiTPerturb", model=stage.model, layers="all", **edit)["MODEL"]
        swept = canvas.add("VDiTLayerSweep", model=edited, layers=layers)
        short: dict[str, Any] = {}
        if probed:
            short = {"steps": probed, "title": f"Probe of {probed} steps"}
        latent = stage.sample(swept["MODEL"], stage.prompts[0], **short)
    with canvas.group("What is lost without each map?", across=True, colour="ours"):
        videos = canvas.add("VAEDecode", samples=latent, vae=stage.loaded.vae)["IMAGE"]
        for title, measure in ((STRUCTURE, "SSIM"), (STEADINESS, "consistency")):
            found = canvas.add(
                "VDiTSweepReport",
                title=title,
                videos=videos,
                labels=swept["labels"],
                measure=measure,
                spare=0,
            )
            shown = [(title, f"ranking_{measure}", found["ranking"])]
            if measure == "SSIM":
                shown.insert(0, ("Every layer", "grid", found["grid"]))
            for name, file, picture in shown:
                prefix = f"vdit/{world.name}_perturb_sweep_{file}"
                canvas.add("SaveImage", title=name, images=picture, filename_prefix=prefix)
            if measure == "SSIM":
                canvas.add("PreviewAny", title="In numbers", wide=700, source=found["report"])


WORKFLOWS: dict[str, Callable[[Canvas], None]] = {
    "toy_perturb_sweep": lambda c: perturb_sweep(c, TOY, TOY_PERTURB, probed=4, map="identity"),
    "wan21_perturb_sweep": lambda c: perturb_sweep(
        c, WAN21, WAN_PERTURB, FEW_OF_WAN, map="identity"
    ),
    "mochi_perturb_sweep": lambda c: perturb_sweep(
        c, MOCHI, MOCHI_PERTURB, FEW_OF_MOCHI, map="uniform", region="video→video"
    ),
}
