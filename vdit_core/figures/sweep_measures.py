"""The measures by which a sweep can rank its layers: each puts a change in one number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .judging import AGREEMENT, Judged, mean


@dataclass(frozen=True)
class Measure:
    """A way to put the difference of two videos in one number, larger for larger ones.

    title: of a plot. words: what a report calls it. needs: an input of the node, if any.
    """

    title: str
    words: str
    read: Callable[[Judged], float]
    needs: str = ""


def _moved(name: str, title: str, words: str, needs: str = "") -> Measure:
    """How far a quality that each video has by itself moves."""
    return Measure(
        f"|change of {title}|",
        f"|change of {words}| against the reference",
        lambda judged: abs(judged.change(name) or 0.0),
        needs,
    )


MEASURES = {
    "difference": Measure(
        "mean |difference| (of 255)",
        "mean |difference| to the reference, of 255",
        lambda j: 255 * float(j.scores.difference.mean()),
    ),
    "PSNR": Measure(
        "RMS difference (of 255)",
        "root mean square difference to the reference, of 255 (orders as PSNR does)",
        lambda j: 0.0 if _identical(j) else 255 * 10 ** (-j.scores.psnr / 20),
    ),
    "SSIM": Measure("1 − SSIM", "1 − SSIM to the reference", lambda j: 1 - j.scores.ssim),
    "consistency": _moved("consistency", "consistency", "temporal consistency"),
    "sharpness": _moved("sharpness", "sharpness (levels²)", "sharpness, squared levels of 255,"),
    "colourfulness": _moved("colourfulness", "colourfulness", "colourfulness"),
    "LPIPS": Measure(
        "LPIPS", "LPIPS to the reference", lambda j: mean(j.lpips) or 0.0, needs="lpips"
    ),
    "CLIP": Measure(
        "1 − CLIP likeness",
        "1 − cosine of the frames' CLIP features with the reference's",
        lambda j: 1 - (mean(j.clip) or 0.0),
        needs="clip_vision",
    ),
    AGREEMENT: _moved(AGREEMENT, AGREEMENT, "CLIP's agreement with the prompt", needs="prompt"),
}
NEEDS = {  # how each is given
    "lpips": "turn on lpips",
    "clip_vision": "connect Load CLIP Vision to clip_vision",
    "prompt": "connect clip_vision and clip, and write prompt",
}


def _identical(judged: Judged) -> bool:
    return bool(judged.scores.identical.all())
