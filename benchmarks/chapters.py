"""What the gallery tells, chapter by chapter: which workflow's pictures, under which words."""

from __future__ import annotations

from dataclasses import dataclass

from .worlds import TOY


@dataclass(frozen=True)
class Chapter:
    """The pictures of one workflow and what they show.

    first: whether videos or sheets are shown at once; the others can be unfolded under `more`.
    prompts: run it once for each of these instead of the prompt in the file.
    """

    workflow: str
    heading: str
    text: str
    first: str = "videos"
    more: str = ""
    prompts: tuple[str, ...] = ()


CHAPTERS = (
    Chapter(
        "toy_transfer",
        "Use one video's maps with another's words",
        f"Source: “{TOY.prompt}”. Target: “{TOY.target}”. Both start from the same noise. In the "
        "edited video the target prompt uses the source's attention maps in layers 1 to 4: who "
        "looks at whom is the source's, what is seen the target's. Beside it, the target alone. On "
        "this toy model that only draws the object towards the source's path, in a seed chosen "
        "because it shows it; transfer in all layers breaks the picture. The paper's claim for "
        "Wan, that prompts far from the source keep its structure, does not show up here: see the "
        "numbers below.",
        more="Frame by frame, with differences",
    ),
    Chapter(
        "toy_transfer_far",
        "When no word is shared",
        "Source: “a red circle falling on a striped background”. Target: “a blue square growing on "
        "a light background”. In the paper's Wan such a video keeps the source's structure and "
        "ignores the new prompt. Here, with the maps of layers 1 to 4, it obeys the new prompt, "
        "and takes from the source that it falls, on its path. One seed; the numbers below, over "
        "more pairs, are of all layers and of each alone.",
        more="Frame by frame, with differences",
    ),
    Chapter(
        "toy_attention_maps",
        "See what the model looks at",
        "Captured at the middle step while the video was sampled. A row is a place that looks, a "
        "column a place looked at, the lines divide the frames: the diagonal is a place and its "
        "neighbours, the stripes beside it the same place in other frames.",
        first="sheets",
        more="The video, which watching does not change",
    ),
    Chapter(
        "toy_statistics",
        "Put numbers on every head",
        "Measured in the same calls: how evenly each head looks, whether there is a token that all "
        "look at, how much is left when the smallest weights are dropped, and how far each layer "
        "looks in time. The tables behind the pictures are in report.json.",
        first="sheets",
        more="The video, which watching does not change",
    ),
    Chapter(
        "toy_structure",
        "Where does it look?",
        "Two videos were watched while they were sampled. In every layer a frame looks most at "
        "itself and less at those farther away; the mass does not fall with every single frame in "
        "every layer. In layer 4 the places of the circle look around the least. The last sheet "
        "compares the maps of two prompts that share no colour, shape, background or motion: each "
        "layer is most alike to the same layer (0.89), the other layers (0.65) are the control. So "
        "on this toy model, too, maps look alike across prompts; a good part of it is what any two "
        "layers have in common. Numbers over more prompts are below.",
        first="sheets",
        more="The video, which watching does not change",
    ),
    Chapter(
        "toy_token_heatmap",
        "From where is a word looked at?",
        "The weight that each place of the video gives a word of the prompt, in the middle of the "
        "sampling, mean of all layers. “red”, “circle” and “falling” are looked at from the "
        "circle, wherever it is; “striped” from everywhere but there. Below, the same over every "
        "frame, and the mask that comes of it.",
        first="sheets",
        more="The video, the words over it, the mask",
    ),
    Chapter(
        "toy_entropy",
        "Which layers look widely, which narrowly?",
        "Figure 4 of the second paper. Entropy and energy of each layer at every step; entropy "
        "within the own frame, and at the own place over the frames, which is our counterpart of "
        "spatial and temporal attention; and head by head. Layer 0 looks most widely and puts out "
        "least, the last layers look at few moments and put out most. Below, half of each map is "
        "replaced by the uniform one: in the layers that look widely the circle gets smaller, in "
        "those that look narrowly the stripes are gone and the last frames fall apart. One seed.",
        first="sheets",
        more="The video, and with either half of the layers blurred",
    ),
    Chapter(
        "toy_temperature",
        "Turn one number: temperature",
        "The scores are divided by T before the softmax. Below 1 every token looks at fewer "
        "places, above 1 at more. One seed, one prompt; only T differs. At 0.25 the later frames "
        "fall apart, at 2 the background is gone and the object hardly falls.",
    ),
    Chapter(
        "toy_perturb",
        "Replace one layer's map",
        "By the identity (every token sees only itself) or by the uniform map (every token sees "
        "the mean of all), to find out what that layer is for. Layer 1 draws no background "
        "without its map; in layer 2 the mean does almost as well.",
    ),
    Chapter(
        "toy_freeze_heads",
        "Keep the map of one step",
        "Heads keep the attention map of step 4 or 10 of 20 for the steps after it. The circle's "
        "path is settled by step 4; its size is not, and comes out larger.",
    ),
    Chapter(
        "toy_layer_sweep",
        "One layer after the other",
        "Every layer's map replaced by the uniform one, a layer at a time: one graph, one queue, a "
        "sampling for each layer. In layer 0 the circle stays where it is and comes twice; in "
        "layers 1, 4 and 5 the stripes are gone and the later frames fall apart; layer 2 changes "
        "least. The ranking compares pixels, so an object that moves counts for much.",
        first="sheets",
    ),
    Chapter(
        "toy_perturb_sweep",
        "Take one map away after the other",
        "Every layer's map replaced by the identity, a layer at a time, in 4 steps. By structure "
        "all layers rank close together: whichever map is gone, so are the stripes. By steadiness "
        "layer 0, whose maps look widest, comes first: without it the circle changes its shape "
        "from frame to frame and does not fall. Without layers 2 and 3 there is no circle at all.",
        first="sheets",
    ),
    Chapter(
        "toy_skip_heads",
        "Leave heads out",
        "The output of chosen heads is set to zero and they are not computed. Here one head costs "
        "contrast, layer 0 the object's place, layer 1 the background; without all of them no "
        "place knows of any other.",
    ),
    Chapter(
        "toy_sparsity",
        "Drop the smallest weights",
        "Below a quantile of each head's map, or by whole blocks of 32 × 32 weights. When "
        "every layer drops 90 % the stripes fade and the circle loses its shape; both are back "
        "when the first three layers are spared. Layer 0, whose maps are nearly even, needs its "
        "small weights most.",
    ),
    Chapter(
        "toy_sensitivity",
        "Which layers can do without?",
        "Figure 7 of the paper, without a sweep: one probe of 4 steps measures how far each "
        "layer's attention output moves when its smallest weights are dropped, and gives each "
        "layer the rate at which it moves by 10 %: little of the first four layers, most of the "
        "last two. The schedule goes to the sampler by a wire. Beside it the same share, 45 %, "
        "dropped in all layers.",
        more="The videos, and how far each is from the dense one",
        first="sheets",
    ),
    Chapter(
        "toy_temperature_curve",
        "What would a temperature do?",
        "Figure 8 of the paper: from one record, how evenly each layer would look at nine "
        "temperatures; below, the video as trained and with one layer at T = 0.5.",
        first="sheets",
        more="The videos",
    ),
    Chapter(
        "toy_sparsity_sweep",
        "Which layers need their small weights?",
        "90 % of the weights dropped in one layer at a time. Layer 0 alone loses the stripes; the "
        "other five hardly notice, as most single layers of Mochi in the paper. The report writes "
        "the schedule that spares the two that change most, and a wire takes it to the last video: "
        "faded stripes are back.",
        first="sheets",
        more="All layers, and all but the spared ones",
    ),
    Chapter(
        "toy_transfer_sweep",
        "Does one layer carry the source?",
        f"The maps of “{TOY.prompt}” in one layer at a time of “{TOY.target}”. In the paper's Wan "
        "layer 3 follows the source; here no single layer does, all videos stay near the target's "
        "own. Layer 4 moves the circle most, to where the source has it. One seed.",
        first="sheets",
    ),
    Chapter(
        "toy_mochi_attention_maps",
        "Video and text in one map",
        "The tiny Mochi attends to video and text together. The blue strip beside a map is how "
        "much each place looks at the prompt.",
        first="sheets",
        more="The video, which watching does not change",
    ),
    Chapter(
        "toy_mochi_text",
        "Fewer words",
        "The tiny Mochi with its whole prompt, with the features of the first word alone, and with "
        "the other words only hidden from attention: what it pools from the prompt stays.",
        more="Frame by frame",
    ),
    Chapter(
        "toy_recorded_transfer",
        "Sample the source once",
        "Its queries and keys in layers 1 to 4 were kept on disk, and other prompts sampled with "
        "the maps they make, from the same noise. The blue circle falls where the red one does; "
        "the green square, of which every word differs, follows less and loses its corners.",
    ),
    Chapter(
        "toy_load_source",
        "And use it again",
        "A source is a folder. Here another prompt takes its maps from there.",
    ),
    Chapter(
        "toy_entropy_enhance",
        "Act where it looks widest",
        "The sampler ranks the layers by entropy in its first step and acts on the upper half, our "
        "reading of the second paper's IE-Adapt. Mixing in the uniform map, or a temperature that "
        "flattens as much, fades the stripes; guidance away from a model without these maps makes "
        "them stronger. One seed; the numbers over many are below.",
        more="Frame by frame",
    ),
    Chapter(
        "toy_entropy_edit",
        "Follow the source where it looks narrowest",
        f"Source: “{TOY.prompt}”. Target: “{TOY.target}”. With the source's maps in the half of "
        "the layers that look narrowest in it, the blue circle is nearly where the red one is, and "
        "of its size; with those of the other half it stays where the target alone has it, larger "
        "and less round. The second paper ties low entropy to structure in the same way; the "
        "choice of layers is our reading of its IE-Adapt. One seed; the numbers over many are "
        "below.",
        more="Frame by frame, with differences",
    ),
    Chapter(
        "toy_edit_footage",
        "Edit a video that no model made",
        "First a rendered clip, at no time near the model; its red circle is to be blue. Where the "
        "mask lets it, the edit draws a blue circle on the footage's path, smaller than the red "
        "one, and the stripes stay as they were. Without a mask, with the footage's maps in layers "
        "1 to 4, the circle is drawn to the left and grows towards the footage's size, but the "
        "stripes are the model's own. Last, the target prompt alone with the same seed. One clip; "
        "the numbers below are of 32.",
    ),
    Chapter(
        "toy_sinks",
        "Find heads that all look at one token",
        "Sinks, counted over two prompts on the tiny Mochi, from a weight of 0.1 on; at 0.3 there "
        "are none with these prompts. The one head that is found looks at the first words of the "
        "prompt. Unlike the paper's sinks its values there are not small, and the video without it "
        "changes more than the one without a random head of the same layer: here, skipping sinks "
        "is not free. Sinks with small values, planted in other tiny models, are among the numbers "
        "below.",
        first="sheets",
        more="The video with all heads, without the sink, without a random head",
    ),
    Chapter(
        "toy_mochi_text_attention",
        "What does each word receive?",
        "How much the video looks at each word of the prompt, in the tiny Mochi. The paper's claim "
        "for the large one, that it attends mostly to the first token, does not show here: the "
        "first word gets about an even share or less. “red” stands out. Nor does text mostly "
        "attend to text in any layer (rings at the right).",
        first="sheets",
        more="The video, which watching does not change",
    ),
    Chapter(
        "toy_load_record",
        "Look again later",
        "A record is a file. These maps were drawn from it without a model and without sampling.",
        first="sheets",
    ),
    Chapter(
        "toy_text_to_video",
        "The model behind all this",
        "A tiny Wan: ComfyUI's own classes, its own loaders, its own sampler, trained on rendered "
        "clips of coloured shapes on grey backgrounds. It runs in seconds without a GPU, and is "
        "small enough to come with the pack.",
        prompts=(
            "a red circle falling on a striped background",
            "a yellow ring drifting on a dark background",
            "a blue square growing on a light background",
            "a green triangle still on a checkered background",
            "a purple circle growing on a checkered background",
            "a cyan square falling on a dark background",
        ),
    ),
)
