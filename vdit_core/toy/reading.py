"""Read a toy scene back from pixels: which colour, shape, background and motion a clip shows.

The object is what is saturated, everything else is grey. Whatever is missing or ambiguous reads as
NONE, so a broken clip is never right by luck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as nnf

from .clips import (
    BACKGROUNDS,
    CHECK_PERIOD,
    COLOURS,
    MOTIONS,
    SHAPES,
    STRIPE_PERIOD,
    Scene,
    signed_distance,
)

NONE = -1
FIELDS: tuple[str, ...] = ("colour", "shape", "background", "motion")

# Area of each shape with radius 1, in the order of SHAPES.
UNIT_AREAS = (math.pi, (2 * 0.88) ** 2, 3 * math.sqrt(3) * 0.62**2, 4 * math.pi * 0.80 * 0.27)

SATURATED = 0.20  # at least; half the object's own saturation if that is more
LEAST_AREA = 20.0  # pixels; the smallest rendered object has about 48
MOST_COVERED = 0.45  # share of the frame; the largest rendered object covers 0.25
LEAST_SEEN = 0.3  # share of the background outside the object and its margin
HUE_AGREES = math.cos(math.radians(24))  # half the smallest gap between two colours
LIKENESS, LIKENESS_LEAD = 0.65, 0.02  # intersection over union, and its lead over the next shape
PATTERN, PLAIN = 0.055, 0.035  # root mean square of grey levels
DARK, LIGHT = 0.32, 0.58  # rendered: 0.12 to 0.24, 0.68 to 0.80
NEAR, FAR = 8.0, 13.0  # pixels over the clip; rendered: at most 5 (camera drift), at least 15
SAME_AREA, GROWN_AREA = 1.6, 2.2  # last over first; rendered: 1, at least 3.5
STRAIGHT = 3.0  # pixels, root mean square distance from an even, straight path


@dataclass(frozen=True)
class Reading:
    """What B clips show. The four words are indices [B] as in Scene, NONE if unclear.

    centre: [B, F, 2] pixels (y, x), NaN in frames without an object; area: [B, F] pixels;
    mask: [B, F, R, C] true on the object; grey: [B, F, R, C] grey levels in 0..1, the background's
    wherever `mask` (and a margin around it) is false.
    """

    colour: Tensor
    shape: Tensor
    background: Tensor
    motion: Tensor
    centre: Tensor
    area: Tensor
    mask: Tensor
    grey: Tensor

    def agrees(self, scenes: Sequence[Scene]) -> dict[str, Tensor]:
        """Per word, whether each clip shows what its scene says, [B] bool."""
        return {
            field: getattr(self, field) == torch.tensor([getattr(s, field) for s in scenes])
            for field in FIELDS
        }


def read(clips: Tensor) -> Reading:
    """Read clips [B, 3, F, R, C] in 0..1."""
    if clips.ndim != 5 or clips.shape[1] != 3:
        raise ValueError(f"clips: got shape {list(clips.shape)}, need [B, 3, F, R, C]")
    clips = clips.detach().float()
    mask = _object_mask(clips)
    centre, area = _track(mask)
    grey = clips.mean(1)
    return Reading(
        colour=_read_colour(clips, mask),
        shape=_read_shape(mask[:, ::2], centre[:, ::2], area[:, ::2]),
        background=_read_background(grey[:, ::4], ~_widen(mask[:, ::4])),
        motion=_read_motion(centre, area),
        centre=centre,
        area=area,
        mask=mask,
        grey=grey,
    )


def track_distance(a: Reading, b: Reading) -> Tensor:
    """Mean distance in pixels between the objects' centres, [B].

    Taken over the frames in which both clips have an object; NaN if there is none.
    """
    return (a.centre - b.centre).norm(dim=-1).nanmean(dim=-1)


def background_distance(a: Reading, b: Reading) -> Tensor:
    """Mean absolute difference of grey levels where neither clip has its object, [B]."""
    seen = ~(_widen(a.mask) | _widen(b.mask))
    difference = (a.grey - b.grey).abs() * seen
    return difference.flatten(1).sum(1) / seen.flatten(1).sum(1)


def _object_mask(clips: Tensor) -> Tensor:
    """[B, F, R, C], true where a pixel is at least half as saturated as the object."""
    saturation = clips.amax(1) - clips.amin(1)
    vivid = saturation > 1.5 * SATURATED
    count = vivid.flatten(1).sum(1)
    typical = (saturation * vivid).flatten(1).sum(1) / count.clamp(min=1)
    return saturation > (typical / 2).clamp(min=SATURATED)[:, None, None, None]


def _widen(mask: Tensor, margin: int = 3) -> Tensor:
    """The mask [B, F, R, C] grown by `margin` pixels: the object with its blurred rim."""
    return nnf.max_pool2d(mask.float(), 2 * margin + 1, stride=1, padding=margin) > 0


def _track(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Centroid [B, F, 2] (NaN without an object) and area [B, F], in pixels."""
    y, x = _pixel_axes(mask)
    area = mask.sum((-2, -1)).float()
    centre = torch.stack([(mask * axis).sum((-2, -1)) for axis in (y, x)], dim=-1)
    seen = (area >= LEAST_AREA) & (area <= MOST_COVERED * mask[0, 0].numel())
    centre = centre / area.clamp(min=1)[..., None]
    return centre.masked_fill(~seen[..., None], torch.nan), area


def _read_colour(clips: Tensor, mask: Tensor) -> Tensor:
    """The palette colour nearest in hue, if most of the object's pixels agree on it."""
    palette = _chroma(torch.tensor(list(COLOURS.values())))  # [colours, 3]
    pixels = _chroma(clips.movedim(1, -1)[mask])  # [N, 3]
    clip = mask.nonzero()[:, 0]  # [N], which clip each pixel is from
    likeness, nearest = (pixels @ palette.T).max(-1)
    votes = torch.zeros(len(mask), len(COLOURS))
    votes.index_put_((clip, nearest), (likeness > HUE_AGREES).float(), accumulate=True)
    best, colour = votes.max(-1)
    total = mask.flatten(1).sum(1)
    sure = (best > 0.6 * total) & (total > LEAST_AREA)
    return colour.where(sure, torch.tensor(NONE))


def _chroma(rgb: Tensor) -> Tensor:
    """Direction of colours [..., 3] away from grey, unit length."""
    return nnf.normalize(rgb - rgb.mean(-1, keepdim=True), dim=-1)


def _read_shape(mask: Tensor, centre: Tensor, area: Tensor) -> Tensor:
    """The shape whose outline, drawn at the measured centre and area, covers the object best."""
    y, x = _pixel_axes(mask)
    dy = y - centre[..., 0, None, None]
    dx = x - centre[..., 1, None, None]
    likeness: list[Tensor] = []
    for name, unit in zip(SHAPES, UNIT_AREAS, strict=True):
        radius = (area / unit).sqrt()[..., None, None]
        drawn = signed_distance(name, dy, dx, radius) < 0
        union = (drawn | mask).sum((-2, -1)).clamp(min=1)
        likeness.append(((drawn & mask).sum((-2, -1)) / union).mean(-1))
    top = torch.stack(likeness, dim=-1).topk(2, dim=-1)
    (best, second), shape = top.values.unbind(-1), top.indices[..., 0]
    return shape.where((best > LIKENESS) & (best - second > LIKENESS_LEAD), torch.tensor(NONE))


def _read_motion(centre: Tensor, area: Tensor) -> Tensor:
    """From net displacement and growth; NONE if the path is not even, or goes another way."""
    seen = ~centre.isnan().any(-1).any(-1)  # [B], in every frame
    path = centre.nan_to_num()
    middle = path.mean(1, keepdim=True)
    time = torch.linspace(-0.5, 0.5, path.shape[1])[None, :, None]  # [1, F, 1]
    travel = (time * path).sum(1) / time.square().sum()  # [B, 2], pixels over the whole clip
    stray = (path - middle - time * travel[:, None]).square().sum(-1).mean(1).sqrt()
    down, aside = travel[:, 0], travel[:, 1].abs()
    ends = max(1, path.shape[1] // 8)
    growth = area[:, -ends:].mean(1) / area[:, :ends].mean(1).clamp(min=1)
    same = (growth < SAME_AREA) & (growth > 1 / SAME_AREA)
    found = {
        "still": (down.abs() < NEAR) & (aside < NEAR) & same,
        "drifting": (down.abs() < NEAR) & (aside > FAR) & same,
        "falling": (down > FAR) & (aside < NEAR) & same,
        "growing": (down.abs() < NEAR) & (aside < NEAR) & (growth > GROWN_AREA),
    }
    motion = torch.full_like(seen, NONE, dtype=torch.int64)
    for index, name in enumerate(MOTIONS):
        motion[found[name] & seen & (stray < STRAIGHT)] = index
    return motion


def _read_background(grey: Tensor, seen: Tensor) -> Tensor:
    """Fit level, light gradient, stripes and checks to the background of each frame.

    grey: [B, F, R, C]; seen: where the background shows, same shape.
    """
    waves = _waves(grey)  # [8, R, C]
    weighted = waves.flatten(1) * seen.flatten(2)[:, :, None]  # [B, F, 8, R·C]
    gram = weighted @ waves.flatten(1).T + 1e-3 * torch.eye(len(waves))
    target = (weighted @ grey.flatten(2)[..., None]).squeeze(-1)
    amount = torch.linalg.solve(gram, target)  # [B, F, 8]
    rest = (grey - torch.einsum("bfw,wrc->bfrc", amount, waves)) * seen
    count = seen.flatten(1).sum(1).clamp(min=1)
    level = amount[..., 0].mean(1)
    stripes = _strength(amount[..., 2:4]) * math.sqrt(1 / 2)
    checks = _strength(amount[..., 4:8]) / 2
    rest = (rest.square().flatten(1).sum(1) / count).sqrt()
    plain = (stripes < PLAIN) & (checks < PLAIN) & (rest < PATTERN)
    between = (level > DARK) & (level < LIGHT)
    found = {
        "dark": plain & (level < DARK),
        "light": plain & (level > LIGHT),
        "striped": between & (stripes > PATTERN) & (checks < stripes / 2),
        "checkered": between & (checks > PATTERN) & (stripes < checks / 2),
    }
    background = torch.full_like(count, NONE, dtype=torch.int64)
    for index, name in enumerate(BACKGROUNDS):
        background[found[name] & (count > LEAST_SEEN * seen[0].numel())] = index
    return background


def _waves(grey: Tensor) -> Tensor:
    """Level, light gradient, stripes of both phases, checks of all four: [8, R, C]."""
    y, x = _pixel_axes(grey)
    stripe = 2 * math.pi / STRIPE_PERIOD * x
    v, u = (2 * math.pi / CHECK_PERIOD * axis for axis in (y, x))
    checks = [a * b for a in (v.cos(), v.sin()) for b in (u.cos(), u.sin())]
    waves = [torch.ones(()), y / y.max() - 0.5, stripe.cos(), stripe.sin(), *checks]
    return torch.stack([w.expand(grey.shape[-2:]) for w in waves])


def _strength(amounts: Tensor) -> Tensor:
    """Length of the last axis, root mean square over frames: [B, F, n] → [B]."""
    return amounts.square().sum(-1).mean(1).sqrt()


def _pixel_axes(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel centres: y [R, 1] and x [1, C]."""
    rows, cols = frames.shape[-2:]
    return (torch.arange(rows) + 0.5)[:, None], (torch.arange(cols) + 0.5)[None, :]
