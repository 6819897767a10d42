"""Write the workflows of this repository, from the node schemas of the running ComfyUI.

    python3 dev.py python -m vdit_attention.benchmarks.build_workflows

`WORKFLOWS` has a builder for every file in workflows/; a test holds the files against them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import workflow_notes as notes
from .canvas import Canvas, Group
from .graphs import (
    enhance,
    entropy,
    footage,
    perturb,
    probe,
    recorded,
    sinks,
    structure,
    sweep,
)
from .server import ComfyServer
from .stages import Stage, draw, tell, transfer
from .workflow_api import Json
from .worlds import HUNYUAN_VIDEO, MOCHI, TOY, TOY_MOCHI, WAN21, WAN22, World

FOLDER = Path(__file__).parent.parent / "workflows"
TWO_RUN = "exact two-run"
WAN_BLOCKS: Json = {"mode": "block", "block_size": 128, "reuse_steps": 4}
SHOWN = {  # statistics by the title of their picture
    "How evenly each head looks": "entropy share",
    "Is there a token that all look at?": "coverage",
    "What is left when weights are dropped": "mass kept against rate",
    "How far each layer looks in time": "mass by frame distance",
}


def text_to_video(canvas: Canvas, world: World) -> None:
    """One video from one prompt."""
    stage = Stage(canvas, world, notes.TEXT_TO_VIDEO, {"Prompt": world.prompt})
    with canvas.group("Sample and save", across=True, colour="result"):
        stage.save(stage.sample(stage.model, stage.prompts[0]), "Video", "text_to_video")


def attention_maps(canvas: Canvas, world: World, note: str, map_size: int, layer: str) -> None:
    """Capture attention while a video is sampled, draw it, keep it."""
    stage = Stage(canvas, world, note, {"Prompt": world.prompt})
    with canvas.group("Watch the model", colour="ours") as watch:
        capture = canvas.add("VDiTCapture", model=stage.model, map_size=map_size)
        record = capture["record"]
        latent = stage.sample(capture["MODEL"], stage.prompts[0])
    with canvas.group("The video, unchanged by watching", colour="result") as video:
        stage.save(latent, "Video", "attention_maps")
    with canvas.group("Keep the record", colour="ours", below=watch):
        file = f"vdit/{world.name}_record"
        canvas.add("VDiTSaveRecord", record=record, latent=latent, filename_prefix=file)
    with canvas.group("Every layer", across=True, colour="ours", right_of=video) as layers:
        draw(canvas, record, latent, "All layers, mean of their heads", f"{world.name}_map_layers")
    with canvas.group(f"The heads of layer {layer}", across=True, colour="ours", below=layers):
        title, file = f"Layer {layer}, each head", f"{world.name}_map_heads"
        draw(canvas, record, latent, title, file, layer=layer, head="all")


def maps_of_two_models(canvas: Canvas, world: World, note: str, switch: int, **chosen: Any) -> None:
    """Capture attention of a model for high noise and of one for low noise into one record."""
    stage = Stage(canvas, world, note, {"Prompt": world.prompt})
    prompt, later = stage.prompts[0], stage.loaded.later
    with canvas.group(f"High noise: steps 0 to {switch - 1}", colour="ours") as high:
        first = canvas.add("VDiTCapture", model=stage.model, **chosen)
        noisy = stage.sample_part(first["MODEL"], prompt, stage.latent, 0, switch)
    with canvas.group("Low noise: the others", colour="ours"):
        second = canvas.add("VDiTCapture", model=later, record=first["record"], **chosen)
        latent = stage.sample_part(second["MODEL"], prompt, noisy, switch, None)
    with canvas.group("The video, unchanged by watching", colour="result") as video:
        stage.save(latent, "Video", "attention_maps")
    record = second["record"]
    with canvas.group("Keep the record", colour="ours", below=high):
        file = f"vdit/{world.name}_record"
        canvas.add("VDiTSaveRecord", record=record, latent=latent, filename_prefix=file)
    place: dict[str, Group] = {"right_of": video}
    for noise, step in (("high", switch // 2), ("low", switch + switch // 2)):
        title = f"Step {step}, {noise} noise"
        with canvas.group(title, across=True, colour="ours", **place) as above:
            draw(canvas, record, latent, title, f"{world.name}_map_{noise}", step=str(step))
        place = {"below": above}


def statistics(canvas: Canvas, world: World, note: str) -> None:
    """Capture everything there is while a video is sampled, and draw some of it."""
    stage = Stage(canvas, world, note, {"Prompt": world.prompt})
    with canvas.group("Watch the model", colour="ours") as above:
        capture = canvas.add(
            "VDiTCapture", model=stage.model, sinks=True, structure=True, sparsity=True
        )
        latent = stage.sample(capture["MODEL"], stage.prompts[0])
    with canvas.group("The video, unchanged by watching", colour="result", below=above):
        stage.save(latent, "Video", "statistics")
    place: dict[str, Group] = {"right_of": above}
    for title, statistic in SHOWN.items():
        with canvas.group(title, across=True, colour="ours", **place) as above:
            tell(canvas, capture["record"], latent, title, statistic, world.name)
        place = {"below": above}


def load_record(canvas: Canvas, world: World) -> None:
    """Draw maps of a saved record, without a model."""
    with canvas.group("What this shows"):
        canvas.note(notes.LOAD_RECORD)
    with canvas.group("Load", colour="ours"):
        file = f"vdit/{world.name}_record_00001_.safetensors [output]"
        record = canvas.add("VDiTLoadRecord", file=file, wide=420)["record"]
    with canvas.group("Draw", across=True, colour="ours"):
        title, name = "The last layer, each head", f"{world.name}_map_from_file"
        draw(canvas, record, None, title, name, layer="-1", head="all")


@dataclass(frozen=True)
class Variant:
    """One row: a node put between model and sampler. inputs: its widgets, by name."""

    title: str
    file: str
    node: str
    inputs: Json


def variants(canvas: Canvas, world: World, note: str, rows: Sequence[Variant]) -> None:
    """One seed and prompt, one row for each way to change the model."""
    stage = Stage(canvas, world, note, {"Prompt": world.prompt})
    above: Group | None = None
    for row in rows:
        place = {"right_of": stage.left} if above is None else {"below": above}
        with canvas.group(row.title, across=True, colour="ours", **place) as above:
            model = canvas.add(row.node, model=stage.model, **row.inputs)["MODEL"]
            stage.save(stage.sample(model, stage.prompts[0]), row.title, row.file)


def text(canvas: Canvas, world: World, note: str) -> None:
    """One prompt whole, its first token alone, and the others only hidden from attention."""
    stage = Stage(canvas, world, note, {"Prompt": world.prompt})
    prompt, model = stage.prompts[0], stage.model
    with canvas.group("The whole prompt", across=True, colour="ours", right_of=stage.left) as above:
        stage.save(stage.sample(model, prompt), "The whole prompt", "text_whole")
    title = "The first token's features alone"
    with canvas.group(title, across=True, colour="ours", below=above) as above:
        first = canvas.add("VDiTFirstTextToken", conditioning=prompt)["CONDITIONING"]
        stage.save(stage.sample(model, first), title, "text_first")
    title = "The other tokens hidden from attention"
    with canvas.group(title, across=True, colour="ours", below=above):
        hiding = canvas.add("VDiTHideText", model=model, branch="cond")["MODEL"]
        stage.save(stage.sample(hiding, prompt), title, "text_hidden")


def at_temperatures(*values: float) -> list[Variant]:
    titles = [f"T = {v:g}" + (", as trained" if v == 1 else "") for v in values]
    return [
        Variant(title, f"temperature_{value:g}", "VDiTTemperature", {"temperature": value})
        for title, value in zip(titles, values, strict=True)
    ]


def skipping(title: str, file: str, heads: str) -> Variant:
    return Variant(title, f"skip_{file}", "VDiTSkipHeads", {"heads": heads})


def perturbed(title: str, kind: str, strength: float, layers: str) -> Variant:
    file = f"perturb_{layers}_{kind}" if strength else "perturb_none"
    return Variant(
        title, file, "VDiTPerturb", {"map": kind, "strength": strength, "layers": layers}
    )


def frozen(title: str, pivot: int, strength: float, layers: str) -> Variant:
    file = f"freeze_{pivot}_{layers}" if strength else "freeze_none"
    inputs = {"pivot_step": pivot, "strength": strength, "layers": layers}
    return Variant(title, file, "VDiTFreezeHeads", inputs)


def sparse(title: str, file: str, sparsity: float, **inputs: Any) -> Variant:
    return Variant(title, f"sparsity_{file}", "VDiTSparsity", {"sparsity": sparsity, **inputs})


WORKFLOWS: dict[str, Callable[[Canvas], None]] = {
    "toy_text_to_video": lambda c: text_to_video(c, TOY),
    "toy_attention_maps": lambda c: attention_maps(c, TOY, notes.ATTENTION_MAPS, 320, "3"),
    "toy_statistics": lambda c: statistics(c, TOY, notes.STATISTICS),
    "toy_load_record": lambda c: load_record(c, TOY),
    "toy_transfer": lambda c: transfer(c, TOY, notes.TRANSFER, "1-4"),
    "toy_temperature": lambda c: variants(
        c, TOY, notes.TEMPERATURE, at_temperatures(0.25, 0.5, 1.0, 2.0)
    ),
    "toy_skip_heads": lambda c: variants(
        c,
        TOY,
        notes.SKIP_HEADS,
        [
            skipping("All heads", "none", "none"),
            skipping("Without the first head of the last layer", "one", "-1:0"),
            skipping("Without layer 0", "layer_0", "0:*"),
            skipping("Without layer 1", "layer_1", "1:*"),
            skipping("Without any self-attention", "all", "all:*"),
        ],
    ),
    "toy_freeze_heads": lambda c: variants(
        c,
        TOY,
        notes.FREEZE_HEADS,
        [
            frozen("Untouched", 4, 0.0, "all"),
            frozen("All maps of step 4 kept", 4, 1.0, "all"),
            frozen("All maps of step 10 kept", 10, 1.0, "all"),
            frozen("Layers 3 to 5 keep their maps of step 4", 4, 1.0, "3-5"),
        ],
    ),
    "toy_perturb": lambda c: variants(
        c,
        TOY,
        notes.PERTURB,
        [
            perturbed("Untouched", "identity", 0.0, "1"),
            perturbed("Layer 1 sees only itself (identity)", "identity", 1.0, "1"),
            perturbed("Layer 1 sees the mean (uniform)", "uniform", 1.0, "1"),
            perturbed("Layer 2 sees the mean (uniform)", "uniform", 1.0, "2"),
        ],
    ),
    "toy_sparsity": lambda c: variants(
        c,
        TOY,
        notes.SPARSITY,
        [
            sparse("Dense", "none", 0.0),
            sparse("90 % of the weights dropped, in all layers", "all", 0.9),
            sparse("90 % dropped, layers 0 to 2 spared", "spared", 0.9, schedule="0-2=0"),
            sparse("Half of all blocks dropped", "block", 0.5, mode="block", block_size=32),
            sparse("90 % dropped, thresholds from a dense run", "two_run", 0.9, mode=TWO_RUN),
        ],
    ),
    "toy_mochi_attention_maps": lambda c: attention_maps(
        c, TOY_MOCHI, notes.TOY_MOCHI_ATTENTION_MAPS, 320, "3"
    ),
    "toy_mochi_text": lambda c: text(c, TOY_MOCHI, notes.TOY_MOCHI_TEXT),
    "wan21_attention_maps": lambda c: attention_maps(c, WAN21, notes.WAN_ATTENTION_MAPS, 216, "3"),
    "wan21_statistics": lambda c: statistics(c, WAN21, notes.WAN_STATISTICS),
    "wan21_transfer": lambda c: transfer(c, WAN21, notes.WAN_TRANSFER, "all"),
    "wan21_temperature": lambda c: variants(
        c, WAN21, notes.WAN_TEMPERATURE, at_temperatures(0.8, 1.0, 1.2)
    ),
    "wan21_skip_heads_and_perturb": lambda c: variants(
        c,
        WAN21,
        notes.WAN_SKIP_AND_PERTURB,
        [
            skipping("All heads", "none", "none"),
            skipping("Without the last layer's self-attention", "layer", "-1:*"),
            perturbed("Middle layer: identity", "identity", 1.0, "mid"),
            perturbed("Middle layer: uniform", "uniform", 1.0, "mid"),
        ],
    ),
    "wan21_sparsity": lambda c: variants(
        c,
        WAN21,
        notes.WAN_SPARSITY,
        [
            sparse("Dense", "none", 0.0),
            sparse("Half of all blocks dropped", "half", 0.5, **WAN_BLOCKS),
            sparse("Half dropped, layer 0 spared", "spared", 0.5, **WAN_BLOCKS, schedule="0=0"),
            sparse("70 % dropped, layer 0 spared", "more", 0.7, **WAN_BLOCKS, schedule="0=0"),
            sparse("Middle layer, exact 70 %", "exact", 0.7, layers="mid"),
        ],
    ),
    "wan22_attention_maps": lambda c: maps_of_two_models(
        c,
        WAN22,
        notes.WAN22_ATTENTION_MAPS,
        switch=10,
        map_size=216,
        layers="0,10,20,30,39",
        branch="cond",
    ),
    "mochi_attention_maps": lambda c: attention_maps(
        c, MOCHI, notes.MOCHI_ATTENTION_MAPS, 210, "44"
    ),
    "mochi_statistics": lambda c: statistics(c, MOCHI, notes.MOCHI_STATISTICS),
    "mochi_transfer": lambda c: transfer(c, MOCHI, notes.MOCHI_TRANSFER, "all"),
    "mochi_sinks_and_sparsity": lambda c: variants(
        c,
        MOCHI,
        notes.MOCHI_SINKS_AND_SPARSITY,
        [
            skipping("All heads", "none", "none"),
            skipping("Without the last two layers' attention", "last", "46-47:*"),
            sparse("70 % dropped, layers 44 and 45 spared", "spared", 0.7, schedule="44,45=0"),
            sparse("70 % of layer 44 dropped", "layer_44", 0.7, layers="44"),
        ],
    ),
    "mochi_text": lambda c: text(c, MOCHI, notes.MOCHI_TEXT),
    "hunyuan_video_attention_maps": lambda c: attention_maps(
        c, HUNYUAN_VIDEO, notes.HUNYUAN_ATTENTION_MAPS, 216, "17"
    ),
    "hunyuan_video_transfer": lambda c: transfer(c, HUNYUAN_VIDEO, notes.HUNYUAN_TRANSFER, "all"),
    **recorded.WORKFLOWS,
    **enhance.WORKFLOWS,
    **footage.WORKFLOWS,
    **probe.WORKFLOWS,
    **sweep.WORKFLOWS,
    **perturb.WORKFLOWS,
    **sinks.WORKFLOWS,
    **structure.WORKFLOWS,
    **entropy.WORKFLOWS,
}


def build(name: str, schemas: Json) -> str:
    """The text of one workflow file."""
    canvas = Canvas(name, schemas)
    WORKFLOWS[name](canvas)
    return json.dumps(canvas.to_json(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    with ComfyServer() as server:
        schemas = server.object_info()
    FOLDER.mkdir(exist_ok=True)
    for name in WORKFLOWS:
        (FOLDER / f"{name}.json").write_text(build(name, schemas), "utf-8")
        print(f"workflows/{name}.json")


if __name__ == "__main__":
    main()
