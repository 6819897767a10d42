"""What the gallery tells, chapter by chapter: which workflow's pictures, under which words."""

from __future__ import annotations

from dataclasses import dataclass

from .stages import TOY


@dataclass(frozen=True)
class Chapter:
    """The pictures of one workflow and what they show."""

    workflow: str
    heading: str
    text: str


@dataclass(frozen=True)
class Section:
    """Numbers of one study under a heading."""

    study: str
    heading: str
    text: str


CHAPTERS = (
    Chapter(
        "toy_transfer",
        "Keep one video's structure, take another's words",
        f"Source: “{TOY.prompt}”. Target: “{TOY.target}”. Both start from the same noise. In the "
        "edited video the target prompt uses the source's attention maps: who looks at whom is the "
        "source's, what is seen is the target's. Beside it, what the target prompt does alone.",
    ),
    Chapter(
        "toy_attention_maps",
        "See what the model looks at",
        "Captured at the middle step while the video was sampled. A row is a place that looks, a "
        "column a place looked at, the lines divide the frames: the diagonal is a place and its "
        "neighbours, the stripes beside it the same place in other frames.",
    ),
    Chapter(
        "toy_temperature",
        "Turn one number: temperature",
        "The scores are divided by T before the softmax. Below 1 every token looks at fewer "
        "places, above 1 at more. One seed, one prompt; only T differs.",
    ),
    Chapter(
        "toy_perturb",
        "Replace one layer's map",
        "By the identity (every token sees only itself) or by the uniform map (every token sees "
        "the mean of all), to find out what that layer is for.",
    ),
    Chapter(
        "toy_skip_heads",
        "Leave heads out",
        "The output of chosen heads is set to zero and they are not computed. One head is hardly "
        "missed; without all of them no place knows of any other.",
    ),
    Chapter(
        "toy_load_record",
        "Look again later",
        "A record is a file. These maps were drawn from it without a model and without sampling.",
    ),
    Chapter(
        "toy_text_to_video",
        "The model behind all this",
        "A tiny Wan: ComfyUI's own classes, its own loaders, its own sampler, trained on rendered "
        "clips of coloured shapes on grey backgrounds. It runs in seconds without a GPU.",
    ),
)

SECTIONS = (
    Section(
        "toy_world",
        "Does the toy world obey its prompts?",
        "Videos of held-out seeds, read back by a program, beside what chance would give.",
    ),
    Section(
        "exactness",
        "Is every edit exact?",
        "Each attention call inside ComfyUI's sampler against the formula in float64, as a ratio "
        "to the error of plain torch in the same dtype; and where nothing may change, the number of "
        "values that differ.",
    ),
    Section(
        "transfer",
        "What does transfer keep, what does it change?",
        "Pairs that differ in one word (near) or in all words (far). Distance to the source video, "
        "and the share of each prompt's words that the edited video shows.",
    ),
    Section(
        "memory",
        "Is a whole map ever in memory?",
        "Measured peak of extra memory at 8,192 tokens beside the size that one full map has.",
    ),
    Section(
        "cost",
        "What does each node cost?",
        "Sampling time as a ratio to plain sampling, measured in turn in one run.",
    ),
    Section("workflows", "How long did it take?", "Each workflow from queueing to its last file."),
)
