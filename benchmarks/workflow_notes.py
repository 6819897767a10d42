"""What the note in each workflow says: what to look at, what to try."""

TOY = (
    "*Toy results: a tiny model that knows coloured shapes on grey backgrounds, nothing else.*\n\n"
)
WAN = (
    "*Wan 2.1 1.3B. Missing weights? The front end offers them when you open this workflow; the "
    "links are in the loaders' properties.*\n\n"
)

WAN22 = (
    "*Wan 2.2 T2V 14B, two models. Missing weights? The front end offers them when you open this "
    "workflow; the links are in the loaders' properties.*\n\n"
)
MOCHI = (
    "*Mochi 1 preview. Missing weights? The front end offers them when you open this workflow; the "
    "links are in the loaders' properties.*\n\n"
)
HUNYUAN = (
    "*HunyuanVideo. Missing weights? The front end offers them when you open this workflow; the "
    "links are in the loaders' properties.*\n\n"
)

TEXT_TO_VIDEO = f"""{TOY}## A video in seconds

**VDiT Toy World** is a tiny Wan video model, complete with text encoder and VAE. Everything else
here is ComfyUI's own.

**Look at** the video: it does what the prompt says, and leaves the rest to chance.

**Try** another prompt. VDiT Toy World's description lists the words it knows; any other is an
error.
"""

ATTENTION_MAPS = f"""{TOY}## What does it look at?

**VDiT Capture** watches the self-attention while the model samples and changes nothing.
**VDiT Attention Map** draws it: a row looks, a column is looked at, lines divide the frames.

**Look at** the diagonal (places look at themselves and their neighbours) and at the stripes beside
it (the same place in other frames).

**Try** `steps` = `0,mid,-1` on VDiT Capture and then `step` on the map; `head` = `0,2`.
"""

STATISTICS = f"""{TOY}## Numbers for every layer and head

With its three switches on, **VDiT Capture** measures more of the same calls. **VDiT Statistics**
draws one thing at a time: a cell for each head, or a line for each layer.

**Look at** layer 0: three of its four heads look nearly everywhere alike, so its line falls first
when weights are dropped. No head is a sink: not one query in a hundred gives the same token a
weight of 0.3 or more.

**Try** another `statistic`, or `steps` = `0,mid,-1` on VDiT Capture and then `step` = `-1`.
"""

LOAD_RECORD = f"""{TOY}## A record, without the model

Run **toy_attention_maps** first: its VDiT Save Record writes the file this workflow reads.

**Look at** how soon this is done: nothing is sampled, everything is in the file.

**Try** `layer` = `all` and `head` = `mean`, or your own record. Press **R** to see new files.
"""

TOY_MOCHI_ATTENTION_MAPS = f"""{TOY}## Video and text in one map

The tiny Mochi: video and text attend to each other together, in one map of 320 video tokens and the
words of the prompt.

**Look at** the blue strip beside each map: how much each place looks at the text. In Wan there is
no such strip; its text enters by attention of its own.

**Try** `head` = `mean`, or another `step` after `steps` = `0,mid,-1` on VDiT Capture.
"""

TOY_MOCHI_TEXT = f"""{TOY}## How many words does it need?

**VDiT First Text Token** removes the features of all words but the first; **VDiT Hide Text** only
hides them from attention, and what the model pools from the whole prompt stays.

**Look at** the second and the third video: a model that pools its text can know words that nothing
attends to. The paper finds Mochi's videos little changed (arXiv 2504.10317, §3.2); this tiny model
was trained on six words, each of which matters.

**Try** `tokens` = 2 or 3: the prompt begins with “a red circle”.
"""

TRANSFER = f"""{TOY}## One video's maps, another's words

Source and target are sampled **side by side from the same noise**. In layers 1 to 4 the target
uses the source's attention map: who looks at whom comes from the source, what is seen from the
target. This tiny model breaks when all its layers are transferred at once.

**Look at** the edited video beside the target prompt alone: the target's colour in both, the path
drawn towards the source's in the first. The seed was chosen because it shows this well: a picture,
not evidence.

**Try** `layers` = `all`, `0` or `3-5`, a lower `strength`, or a target prompt with another shape.
"""

TEMPERATURE = f"""{TOY}## One number inside the softmax

The scores are divided by **T** before the softmax: below 1 every token looks at fewer places, above
1 at more. Same seed, same prompt in each row.

**Look at** what goes first: the later frames at T = 0.25, the background at T = 2.

**Try** `layers` = `0` or `-1`, or two of these nodes in a row: temperatures multiply.
"""

SKIP_HEADS = f"""{TOY}## Which heads does it need?

**VDiT Skip Heads** leaves heads out: their output is zero and they are not computed.

**Look at** what each row has lost: contrast, the object's place, the stripes, everything.

**Try** `0:*; 5:1,3`, or only the first half of the steps with `end_percent` = 0.5.
"""

PERTURB = f"""{TOY}## What is a layer's map for?

In one layer the attention map is replaced: by the **identity** (every token sees only itself) or by
the **uniform** map (every token sees the mean of all).

**Look at** what breaks: the object, its motion, or the background. Layer 1 cannot do without its
map; in layer 2 the mean does almost as well.

**Try** other `layers`, or `strength` = 0.5.
"""

SPARSITY = f"""{TOY}## How much of a map does it need?

**VDiT Sparsity** drops the smallest weights of each head; it says on the node what was lost, layer
by layer. *exact* shows what can be dropped and saves no time; *block* leaves whole blocks out.

**Look at** the stripes: faded where every layer drops 90 %, back where layers 0 to 2 are spared.
Layer 0, whose maps are nearly even, needs its small weights; layers 4 and 5 alone hardly notice.
Half of all blocks costs this video little; other prompts and seeds lose more, some at 70 %.

**Try** one layer at a time: `layers` = `0`, then `5`, or `schedule` = `0=0; 4,5=0.9`.
"""

WAN_ATTENTION_MAPS = f"""{WAN}## What does Wan look at?

**VDiT Capture** watches the self-attention at the middle step and changes nothing; the full map
(14,040 × 14,040 here) is never built.

**Look at** one square per frame on the diagonal and the stripes beside it: the same place in other
frames, fainter with distance (arXiv 2504.10317, Figure 1).

**Try** `layers` = `0,3,19` on VDiT Capture to be faster, `head` = `all` on the map.
"""

WAN22_ATTENTION_MAPS = f"""{WAN22}## What do its two models look at?

Wan 2.2 has one model for high noise and one for low noise, and a sampler for each. The second
**VDiT Capture** goes on with the record of the first: one record, steps counted over both.

**Look at** the same layer in both pictures: step 5 is the first model's, step 15 the second's.

**Try** `steps` = `all` and `layers` = `20` on both VDiT Captures, then another `step` on a map.
`steps` counts each sampler's own steps, the record all of them.
"""

WAN_STATISTICS = f"""{WAN}## Numbers for every layer and head

With its three switches on, **VDiT Capture** measures more of the same calls at the middle step.
Exact quantiles sort every row of every map: this step takes far longer than the others. Turn
`sparsity` off, and bypass the third picture, if you do not need them.

**Look at** heads whose coverage is over 50 % (sinks, arXiv 2504.10317, §5), and at which layers
keep their mass when weights are dropped.

**Try** `layers` = `0,15,29` on VDiT Capture to be faster, and `statistic` = `value norm ratio`.
"""

WAN_TRANSFER = f"""{WAN}## One video's structure, another's words

Source and target are sampled side by side from the same noise. In every layer the target uses the
source's attention map (arXiv 2504.10317, §3.1).

**Look at** the edited video: almost the source, but what the target prompt adds is there. With a
target that is far from the source (a dog) the paper saw the new prompt ignored.

**Try** one layer at a time: with `3` the paper's video followed the source, with `0` or `19` the
target's own.
"""

WAN_TEMPERATURE = f"""{WAN}## One number inside the softmax

The scores are divided by **T** before the softmax: below 1 every token looks at fewer places, above
1 at more. Same seed, same prompt in each row; bypass the rows you do not need.

**Look at** detail and steadiness of motion.

**Try** a single layer, such as `layers` = `mid`, and values further from 1.
"""

WAN_SKIP_AND_PERTURB = f"""{WAN}## What are layers and heads for?

**VDiT Skip Heads** leaves heads out; **VDiT Perturb Attention** replaces a layer's map by the
identity (each token sees only itself) or the uniform map (each token sees the mean).

**Look at** what each row loses against the first one. Bypass the rows you do not need.

**Try** other layers: Wan 2.1 1.3B has layers 0 to 29 with 12 heads each.
"""

WAN_SPARSITY = f"""{WAN}## How much of a map does it need?

**VDiT Sparsity** in *block* mode leaves out the lightest blocks of 128 × 128 weights and chooses
them afresh every fourth step. The node says, layer by layer, what was dropped and lost.

**Look at** what each row loses against the first one, and at the time each takes. Bypass the rows
you do not need; the last one is exact and slow, and shows what one layer can do without.

**Try** another `schedule`: the paper (arXiv 2504.10317, §4.1) finds that most single layers of
Mochi tolerate sparsity, and that dropping in all of them does not hold.
"""

MOCHI_ATTENTION_MAPS = f"""{MOCHI}## What does Mochi look at?

Mochi has 48 layers of 24 heads, and video and text attend to each other in one map. **VDiT
Capture** watches the middle step and changes nothing; the full map is never built.

**Look at** the strip beside each map: how much each place looks at the text. One square per frame
stands on the diagonal (arXiv 2504.10317, Figure 1).

**Try** `layers` = `0,24,44-47` on VDiT Capture to be faster, `head` = `all` on the map.
"""

MOCHI_STATISTICS = f"""{MOCHI}## Numbers for every layer and head

With its three switches on, **VDiT Capture** measures more of the same calls at the middle step.
Exact quantiles sort every row of every map: this step takes far longer than the others. Turn
`sparsity` off, and bypass the third picture, if you do not need them.

**Look at** coverage in the last four layers: the paper finds sinks only there (arXiv 2504.10317,
§5), heads in which over half of all tokens look at one. And at `value norm ratio`: how small what
they get there is.

**Try** `layers` = `44-47` on VDiT Capture to be faster.
"""

MOCHI_TRANSFER = f"""{MOCHI}## One video's structure, another's words

Source and target are sampled side by side from the same noise. In every layer the target uses the
source's attention map (arXiv 2504.10317, §3.1, which shows it for Wan). Each prompt sees its own
words only, not the padding that makes both equally long.

**Look at** the edited video beside the target prompt alone.

**Try** `region` = `video→video`: text is then looked at as the target's own scores say.
"""

MOCHI_SINKS_AND_SPARSITY = f"""{MOCHI}## What can Mochi do without?

The paper finds that skipping sink heads, nearly all of them in layers 46 and 47, keeps quality, and
that two layers do not stand sparsity (arXiv 2504.10317, §4.1 and §5); other sources name 44 and 45.

**Look at** what each row loses against the first one. Bypass the rows you do not need: exact
sparsity is an oracle and makes the run much slower.

**Try** `layers` = `45`, and `mode` = `block` for time saved.
"""

MOCHI_TEXT = f"""{MOCHI}## How many words does Mochi need?

Most of Mochi's attention on text goes to the first token, and its videos change little without the
features of the others (arXiv 2504.10317, §3.2). **VDiT First Text Token** removes those features
everywhere; **VDiT Hide Text** only hides them from attention, and what Mochi pools from the whole
prompt stays.

**Look at** what the second and the third video have kept of the prompt.

**Try** `tokens` = 3, or `layers` = `24-47` on VDiT Hide Text.
"""

HUNYUAN_ATTENTION_MAPS = f"""{HUNYUAN}## What does HunyuanVideo look at?

20 double blocks, then 40 single blocks of 24 heads: layers 0 to 59, counted over the whole model.
Text comes first in the sequence, then the video. The calls of the text refiner are not counted.

**Look at** the strip beside each map: how much each place looks at the text.

**Try** `layers` = `0,17,54` on VDiT Capture to be faster, `head` = `all` on the map.
"""

HUNYUAN_TRANSFER = f"""{HUNYUAN}## One video's structure, another's words

Source and target are sampled side by side from the same noise. In every layer the target uses the
source's attention map (arXiv 2504.10317, §3.1, which shows it for Wan).

**Look at** the edited video beside the target prompt alone.

**Try** `layers` = `0-19` (the double blocks), and `region` = `video→video`.
"""

FREEZE_HEADS = f"""{TOY}## When is it settled who looks at whom?

**VDiT Freeze Heads** keeps the attention map of one step for all steps after it. What is seen goes
on changing, who looks at whom does not.

**Look at** the path: the circle falls where it would in all four, so that is settled by step 4. Its
size is not: with the maps of step 4 it comes out larger, with those of step 10 only its outline
differs.

**Try** other steps; `branch` = `cond`.
"""
