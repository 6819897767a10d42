"""What the gallery says of its numbers, section by section: which study's, under which words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """Numbers of one study under a heading. plot: two columns, one drawn against the other."""

    study: str
    heading: str
    text: str
    plot: tuple[str, str] | None = None


SECTIONS = (
    Section(
        "toy_world",
        "Does the toy world obey its prompts?",
        "Videos of held-out seeds, read back by a program, beside what chance would give.",
    ),
    Section(
        "transfer_near",
        "What does transfer keep when one word differs?",
        "Distance to the source video, and the share of each prompt's words that the edited video "
        "shows. The target differs from the source in the colour only.",
    ),
    Section(
        "transfer_far",
        "And when every word differs?",
        "The same for pairs whose colour, shape, background and motion all differ.",
    ),
    Section(
        "perturb",
        "What do wide and narrow maps carry?",
        "The identity or the uniform map in one layer of the tiny Wan after the other, over 32 "
        "seeds (4 steps); then the means of the three layers of higher and of lower entropy. "
        "The paper ties high entropy to quality and low entropy to the structure of frames. "
        "That does not show here: on the identity the halves (high, low) have SSIM 0.55 and "
        "0.55, sharpness 44 and 41, words right 0.36 and 0.39; on the uniform map 0.68 and "
        "0.67, 91 and 73, 0.76 and 0.72: far less apart than seeds are (measured 2026-11-21). "
        "With the identity in any one layer the shape is lost; with the uniform map layers 0 "
        "and 4 cost the most words, the widest and the narrowest.",
    ),
    Section(
        "enhance",
        "Does acting on the widest maps make videos better?",
        "Our reading of IE-Adapt's enhancement on the tiny Wan, 32 seeds, 4 steps without "
        "guidance (cfg 1), so that there is something to gain: the half of the layers whose "
        "maps look widest, as many random layers, and two published methods. The paper's "
        "direction does not show. Flattening these layers' maps, by mixing or by temperature, "
        "gives blurrier videos (sharpness 127 without, 72 at strength 0.3) and fewer right "
        "words (0.91, 0.80 to 0.84); at 0.1 words stay within the error and sharpness falls. "
        "Random layers fare little worse. Enhance-A-Video does about the same: τ = 1 keeps the "
        "words, τ = 4 costs them (0.77). Guidance away from identity maps sharpens (319 at 0.5; "
        "rendered clips have 363) and gains 0.02 ± 0.03 words, but steadiness falls (0.985 from "
        "0.990; rendered 0.993), and which layers it acts on makes no difference. "
        "Attention-skip guidance sharpens more and costs words at scale 1 (measured 2026-11-21).",
    ),
    Section(
        "entropy_edit",
        "Is the source kept where maps are narrow?",
        "Transfer in the half of the layers whose maps look narrowest in the first step, in the "
        "other half, in all, in as many random ones; and noised starts from the source's video "
        "(SDEdit). Near pairs, 32 seeds, 4 steps of the tiny Wan; source and target begin with "
        "the same noise, so they are alike without transfer too. Here the paper's direction "
        "shows, weakly: against no transfer, SSIM with the source goes up by 0.028 ± 0.007 in "
        "the low-entropy half, down by 0.046 ± 0.008 in the high-entropy half, and stays with "
        "random layers (standard errors; measured 2026-11-21). Both halves cost as many of the "
        "target's words (0.07), all layers cost more (0.17). The object's track moves by no "
        "more than the seeds do. The plain baseline does better on this model: a start noised "
        "by 0.5 keeps more (SSIM 0.74 against 0.72) and obeys as well (0.93 against 0.91).",
        plot=("SSIM with the source", "words of the target shown"),
    ),
    Section(
        "entropy_edit_far",
        "And when every word differs?",
        "The same for pairs that share no word. Every transfer brings the video nearer to the "
        "source and costs much of the prompt: the low-entropy half more of both (SSIM 0.285, "
        "0.58 of the target's words) than the high-entropy half (0.243 and 0.63), less than all "
        "layers (0.31 and 0.48). A start noised by 0.5 has 0.25 and 0.96. The seeds are farther "
        "apart than most of these means.",
        plot=("SSIM with the source", "words of the target shown"),
    ),
    Section(
        "sensitivity",
        "Does the probe find what a sweep finds?",
        "The probe (one prompt, 4 steps) against a full sweep: every prompt sampled once for each "
        "layer, that layer alone sparse. On the tiny Wan the rankings agree fairly well, on the "
        "tiny Mochi less (rank correlations 0.83 and 0.49 over 16 prompts, demo --full of "
        "2026-11-21): a change of a layer's output is not yet one of the video. What a schedule "
        "does to the layers themselves is predicted well. Then what two schedules do, beside the "
        "same share in all layers.",
    ),
    Section(
        "comparison",
        "How alike are the videos above?",
        "Two videos of one workflow, compared pixel by pixel.",
    ),
    Section(
        "footage",
        "Is edited footage kept, and edited?",
        "Rendered clips, whose truth is known; the colour or the shape is to change. Over 32 clips "
        "(--full) the background was off the footage's by 0.127 with the target prompt alone, by "
        "0.033 from a noised start (SDEdit, denoise 0.5), and by 0.009 with a mask in attention "
        "and the background held, where the VAE alone makes 0.007; ComfyUI's noise mask alone made "
        "0.010. Mask and hold showed the changed word in 97 % of the clips and all others in 88 % "
        "(noise mask alone: 91 % and 75 %, which 32 clips hardly tell apart), on a path 5.3 pixels "
        "off instead of 7.5. The mask in attention alone left 0.016. The footage's maps without a "
        "mask did not help here: the background was as far off as without them (0.124 in layers 1 "
        "to 4, 0.134 in all), and fewer words were shown. Between generated videos, as in the "
        "paper, transfer does not keep the source on this toy model either.",
        plot=("background off the footage's", "the changed word is shown"),
    ),
    Section(
        "entropy",
        "How spread out is attention?",
        "Mean entropy of the rows of each map above: 1 looks everywhere alike, 0 at one place.",
    ),
    Section(
        "sinks",
        "Are sinks found, and what does skipping them change?",
        "Sinks with tiny values, planted in tiny models of random weights: which heads are found, "
        "from τ on which a weight counts as heavy, and how much the latent changes without them, "
        "beside as many random heads. Then the toy models' own.",
    ),
    Section(
        "structure",
        "Are structure and text attention told right?",
        "First in models made local or flat on purpose, where the answer is known; then the claims "
        "of the paper's Fig. 1 and 6 on the toy models: how much mass a frame gives to itself and "
        "to those farther away, how alike the maps of one layer are for two prompts, held against "
        "those of other layers, and how much of the text's attention the first token gets.",
    ),
    Section(
        "words",
        "Is a word looked at from what it names?",
        "How much more a place of the object gives a word than a place elsewhere, at the middle "
        "step, mean of all layers and heads; 1 is as much. Of 32 prompts, colour and shape are "
        "looked at from the object in all, motion in all on the tiny Wan and in 30 on the tiny "
        "Mochi. The word for the background is looked at from elsewhere on the tiny Mochi, and "
        "from anywhere about alike on the tiny Wan (full study of 2026-11-21).",
    ),
    Section(
        "exactness",
        "Is every edit exact?",
        "Each attention call inside ComfyUI's sampler against the formula in float64: its error as "
        "a ratio to that of plain torch in the same dtype. 3 × 5 × 7 tokens.",
    ),
    Section(
        "recorded",
        "Is a recorded transfer the transfer of a pair?",
        "Source videos sampled once with their queries and keys kept, and replayed in the "
        "targets. In batches of equal size there may be no other bit; otherwise matrix products "
        "round differently.",
    ),
    Section(
        "unchanged",
        "Does everything else stay as it was?",
        "Values of the sampled latent that differ. There may be none.",
    ),
    Section(
        "capture",
        "Are captured maps right?",
        "Against whole maps in float64, pooled afterwards; largest difference as a share of the "
        "largest value.",
    ),
    Section(
        "memory",
        "Is a whole map ever in memory?",
        "Measured at 8,192 tokens, held against the size of one map of one head.",
    ),
    Section(
        "cost",
        "What does each node cost?",
        "Sampling time as a ratio to plain sampling, measured in turn in one run.",
    ),
    Section("workflows", "How long did it take?", "Each workflow from queueing to its last file."),
)
