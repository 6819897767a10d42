"""Which layers stand sparsity, and what a temperature would do: predictions from one record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..canvas import Canvas, Group
from ..stages import Stage, compare, tell
from ..workflow_api import Json
from ..workflow_notes import MOCHI as OF_MOCHI
from ..workflow_notes import TOY as OF_TOY
from ..workflow_notes import WAN as OF_WAN
from ..worlds import MOCHI, TOY, WAN21, World

_PROBE = """The **probe** is a sampling of {steps} steps whose video nobody looks at. ComfyUI runs
it first: the schedule needs its record. **VDiT Sensitivity** reads from it how far each layer's
attention output moves when that layer loses its smallest weights, {chosen}, and writes the schedule
that **VDiT Sparsity** takes by a wire."""

TOY_SENSITIVITY = f"""{OF_TOY}## Which layers can do without?

{_PROBE.format(steps=4, chosen="gives each layer the rate at which it moves by 10 %")}

**Look at** the three videos: dense, 45 % dropped in all layers, and 45 % on average as scheduled:
little of the first four layers, most of the last two.

**Try** `target` = `rate` with `limit` = 0.5 on VDiT Sensitivity: layers are then spared or not.

*Figure 7 of arXiv 2504.10317, without a sweep.*
"""

MOCHI_SENSITIVITY = f"""{OF_MOCHI}## Which layers of Mochi can do without?

{_PROBE.format(steps=6, chosen="spares those that move by more than 20 % at 70 % dropped")}

**Look at** the layers that are spared; the paper finds that two of Mochi's layers do not stand
sparsity, and other sources name 44 and 45. Exact sparsity is an oracle and makes a run much slower.

**Try** `mode` = `block` on VDiT Sparsity, and `target` = `error`.

*Figure 7 of arXiv 2504.10317, without a sweep.*
"""

WAN_SENSITIVITY = f"""{OF_WAN}## Which layers of Wan can do without?

{_PROBE.format(steps=6, chosen="gives each layer the rate at which it moves by 10 %")}

Here VDiT Sparsity leaves out whole blocks at these rates, which saves time and loses more than
the probe says: it measures single weights.

**Look at** the schedule, and at the video against the dense one.

**Try** `limit` = 0.05, or `target` = `mass lost` (switch on `sparsity` on VDiT Capture).

*As Figure 7 of arXiv 2504.10317, which shows Mochi.*
"""

_CURVE = """With `temperatures` on, **VDiT Capture** also measures how evenly each head would look
if the captured scores were divided by T, nine values from 0.25 to 4. Nothing is sampled there."""

TOY_TEMPERATURE_CURVE = f"""{OF_TOY}## What would a temperature do?

{_CURVE}

**Look at** the lines: a flat one belongs to a layer that T hardly changes. Below, layer 2 alone is
sampled at T = 0.5, through the `schedule` of **VDiT Temperature**.

**Try** `schedule` = `0=2`, or `all=0.8; 0=1`.

*Figure 8 of arXiv 2504.10317 changes one layer; the curve is ours.*
"""

MOCHI_TEMPERATURE_CURVE = f"""{OF_MOCHI}## What would a temperature do to Mochi?

{_CURVE}

**Look at** the lines, and at the videos: layer 24 alone is sampled at T = 0.5 and T = 2. The paper
does not say which layer it changed.

**Try** another layer in `schedule`, such as `44=0.5`.

*Figure 8 of arXiv 2504.10317 changes one layer; the curve is ours.*
"""


@dataclass(frozen=True)
class Probe:
    """A probe and the schedule made from it.

    asked: widgets of VDiT Sensitivity. everywhere: a rate to show in all layers too, 0 for none.
    dropping: widgets of VDiT Sparsity.
    """

    note: str
    steps: int
    asked: Json
    everywhere: float = 0.0
    dropping: Json = field(default_factory=dict)


def sensitivity(canvas: Canvas, world: World, probe: Probe) -> None:
    """Probe, schedule and a sampling with it, beside the dense one."""
    stage = Stage(canvas, world, probe.note, {"Prompt": world.prompt})
    prompt, model = stage.prompts[0], stage.model
    with canvas.group("A short probe", colour="ours"):
        capture = canvas.add("VDiTCapture", model=model, steps="all", sensitivity=True)
        title = f"Probe of {probe.steps} steps"
        latent = stage.sample(capture["MODEL"], prompt, steps=probe.steps, title=title)
    with canvas.group("Which layers stand sparsity?", across=True, colour="ours") as found:
        title, record = "Which layers stand sparsity?", capture["record"]
        told = canvas.add(
            "VDiTSensitivity", title=title, record=record, latent=latent, **probe.asked
        )
        file = f"vdit/{world.name}_sensitivity"
        canvas.add("SaveImage", title=title, images=told["IMAGE"], filename_prefix=file)
        canvas.add("PreviewAny", title=f"{title} In numbers", wide=480, source=told["report"])
    with canvas.group("Dense", across=True, colour="result", below=found) as above:
        dense = stage.save(stage.sample(model, prompt), "Dense", "sensitivity_dense")
    videos = {}
    if probe.everywhere:
        title = f"{probe.everywhere:.0%} dropped in all layers"
        with canvas.group(title, across=True, colour="result", below=above) as above:
            sparse = canvas.add(
                "VDiTSparsity", model=model, sparsity=probe.everywhere, **probe.dropping
            )
            sampled = stage.sample(sparse["MODEL"], prompt)
            videos[title] = stage.save(sampled, title, "sensitivity_everywhere")
    title = "With the schedule"
    with canvas.group(title, across=True, colour="result", below=above) as above:
        sparse = canvas.add(
            "VDiTSparsity", model=model, schedule=told["schedule"], sparsity=0.0, **probe.dropping
        )
        sampled = stage.sample(sparse["MODEL"], prompt)
        videos[title] = stage.save(sampled, title, "sensitivity_schedule")
    place: dict[str, Group] = {"right_of": max(found, above, key=lambda group: group.right)}
    for title, video in videos.items():
        name = f"Dense against: {title[0].lower()}{title[1:]}"
        with canvas.group(name, across=True, colour="ours", **place) as above:
            compare(canvas, dense, video, name)
        place = {"below": above}


def temperature_curve(canvas: Canvas, world: World, note: str, schedules: dict[str, str]) -> None:
    """Predicted entropies from one record, and videos with one layer at another temperature.

    schedules: of VDiT Temperature, by the title of their video.
    """
    stage = Stage(canvas, world, note, {"Prompt": world.prompt})
    prompt = stage.prompts[0]
    with canvas.group("Watch the model", colour="ours"):
        capture = canvas.add("VDiTCapture", model=stage.model, temperatures=True)
        latent = stage.sample(capture["MODEL"], prompt)
    title = "What would a temperature do?"
    with canvas.group(title, across=True, colour="ours") as above:
        tell(canvas, capture["record"], latent, title, "entropy against temperature", world.name)
    with canvas.group("As trained", across=True, colour="result", below=above) as above:
        stage.save(latent, "As trained", "temperature_as_trained")
    for number, (title, schedule) in enumerate(schedules.items(), 1):
        with canvas.group(title, across=True, colour="result", below=above) as above:
            changed = canvas.add(
                "VDiTTemperature", model=stage.model, temperature=1.0, schedule=schedule
            )
            sampled = stage.sample(changed["MODEL"], prompt)
            stage.save(sampled, title, f"temperature_schedule_{number}")


_TOY = Probe(TOY_SENSITIVITY, 4, {"target": "error", "limit": 0.1}, 0.45)
_MOCHI = Probe(MOCHI_SENSITIVITY, 6, {"rate": 0.7, "limit": 0.2}, 0.7)
_BLOCKS: Json = {"mode": "block", "block_size": 128, "reuse_steps": 4}
_WAN = Probe(WAN_SENSITIVITY, 6, {"target": "error", "limit": 0.1}, dropping=_BLOCKS)

WORKFLOWS: dict[str, Callable[[Canvas], None]] = {
    "toy_sensitivity": lambda c: sensitivity(c, TOY, _TOY),
    "mochi_sensitivity": lambda c: sensitivity(c, MOCHI, _MOCHI),
    "wan21_sensitivity": lambda c: sensitivity(c, WAN21, _WAN),
    "toy_temperature_curve": lambda c: temperature_curve(
        c, TOY, TOY_TEMPERATURE_CURVE, {"Layer 2 at T = 0.5": "2=0.5"}
    ),
    "mochi_temperature_curve": lambda c: temperature_curve(
        c,
        MOCHI,
        MOCHI_TEMPERATURE_CURVE,
        {"Layer 24 at T = 0.5": "24=0.5", "Layer 24 at T = 2": "24=2"},
    ),
}
