"""Two videos, judged: what differs between them, and what each is like by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..video_metrics import Quality, cosine, quality_of
from .scores import Scores, score

AGREEMENT = "prompt agreement"


@dataclass(frozen=True)
class Prompt:
    """What a video should show. features: in the space of the image features, [D].

    note: what a reader of the numbers must know, or nothing.
    """

    features: Tensor
    note: str = ""


@dataclass(frozen=True)
class Look:
    """A video [F, H, W, 3] of values 0..1. features: of an image encoder, [F, D]."""

    video: Tensor
    quality: Quality
    features: Tensor | None
    prompt: Prompt | None = None

    @property
    def curves(self) -> dict[str, Tensor]:
        """What the video is like by itself, by frame; pairs of neighbours have one value less."""
        found = {
            "consistency": self.quality.consistency,
            "sharpness": self.quality.sharpness,
            "colourfulness": self.quality.colourfulness,
        }
        if self.features is not None:
            found["CLIP consistency"] = cosine(self.features[:-1], self.features[1:])
        if self.features is not None and self.prompt is not None:
            found[AGREEMENT] = cosine(self.features, self.prompt.features[None])
        return found


@dataclass(frozen=True)
class Judged:
    """How b differs from a. lpips, clip: by frame, [F]; None without the weights."""

    a: Look
    b: Look
    scores: Scores
    lpips: Tensor | None
    clip: Tensor | None

    def change(self, name: str) -> float | None:
        """Mean of a curve of b less that of a; None where there is no value, or no such curve."""
        a, b = (mean(look.curves.get(name)) for look in (self.a, self.b))
        return None if a is None or b is None else b - a


@dataclass(frozen=True)
class Judges:
    """What needs weights of its own.

    embed: frames [F, H, W, 3] → image features [F, D]. perceive: LPIPS of two videos, [F].
    prompt: of the same D; without embed it is of no use.
    """

    embed: Callable[[Tensor], Tensor] | None = None
    perceive: Callable[[Tensor, Tensor], Tensor] | None = None
    prompt: Prompt | None = None

    def look(self, video: Tensor) -> Look:
        return Look(video, quality_of(video), self.embed and self.embed(video), self.prompt)

    def notes(self) -> list[str]:
        """Words below a report."""
        if self.prompt is None:
            return []
        told = f"{AGREEMENT}: cosine of the frames' CLIP features with the prompt's."
        return [f"{told} {self.prompt.note}".rstrip()]

    def compare(self, a: Look, b: Look) -> Judged:
        lpips = self.perceive and self.perceive(a.video, b.video)
        clip = None
        if a.features is not None and b.features is not None:
            clip = cosine(a.features, b.features)
        return Judged(a, b, score(a.video, b.video), lpips, clip)


def mean(curve: Tensor | None) -> float | None:
    """None for no curve, and for one without values: a single frame has no neighbour."""
    return None if curve is None or not len(curve) else float(curve.mean())
