"""Render the toy clips: one coloured shape moving over a grey background.

The prompt says colour, shape, background and motion. Everything else (where it starts, how fast and
how large it is, shading, light, camera drift, pattern phase) is left to chance, so that two videos
of one prompt differ in the things a transferred attention map can carry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FRAMES = 17
SIZE = 64  # pixels, square

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.92, 0.13, 0.13),
    "yellow": (0.93, 0.83, 0.10),
    "green": (0.13, 0.75, 0.17),
    "cyan": (0.10, 0.80, 0.86),
    "blue": (0.15, 0.22, 0.92),
    "purple": (0.70, 0.16, 0.86),
}
SHAPES = ("circle", "square", "triangle", "ring")
BACKGROUNDS = ("dark", "light", "striped", "checkered")
MOTIONS = ("still", "drifting", "falling", "growing")

STRIPE_PERIOD = 16  # pixels from one light stripe to the next
CHECK_PERIOD = 32


@dataclass(frozen=True)
class Scene:
    """What the prompt says: indices into COLOURS, SHAPES, BACKGROUNDS and MOTIONS."""

    colour: int
    shape: int
    background: int
    motion: int

    @property
    def prompt(self) -> str:
        colour = tuple(COLOURS)[self.colour]
        return (
            f"a {colour} {SHAPES[self.shape]} {MOTIONS[self.motion]} "
            f"on a {BACKGROUNDS[self.background]} background"
        )


def random_scenes(count: int, generator: torch.Generator) -> list[Scene]:
    """Draw `count` scenes, every word uniform and independent."""
    sizes = (len(COLOURS), len(SHAPES), len(BACKGROUNDS), len(MOTIONS))
    columns = [torch.randint(n, (count,), generator=generator).tolist() for n in sizes]
    return [Scene(*row) for row in zip(*columns, strict=True)]


def render(scenes: list[Scene], generator: torch.Generator) -> Tensor:
    """Render one clip per scene, unprompted things drawn from `generator`.

    Returns [B, 3, F, R, C] in 0..1, F = 17 frames of 64 × 64 pixels.
    """
    return render_with_objects(scenes, generator)[0]


def render_with_objects(scenes: list[Scene], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips as `render` draws them, and the share of each pixel that is object, [B, F, R, C]."""
    chance = Chance(len(scenes), generator)
    time = torch.linspace(0, 1, FRAMES)  # [F]
    drift = chance.uniform(-5, 5, 2)[:, None] * time[None, :, None]  # [B, F, 2] pixels, (y, x)
    centre, radius = _trajectories(scenes, time, chance)
    y, x = _pixel_axes()
    backdrop = _backgrounds(scenes, drift, chance)  # [B, F, R, C]

    centre = centre + drift
    dy = y - centre[..., 0, None, None]
    dx = x - centre[..., 1, None, None]
    cover = _cover(scenes, dy, dx, radius[..., None, None])  # [B, F, R, C]
    angle = chance.uniform(0, 2 * math.pi)[:, None, None, None]
    shade = 1 + chance.uniform(0.05, 0.20)[:, None, None, None] * (
        dx * angle.cos() + dy * angle.sin()
    ) / radius[..., None, None].clamp(min=1)
    palette = torch.tensor(list(COLOURS.values()))
    colour = palette[torch.tensor([s.colour for s in scenes])]  # [B, 3]
    figure = colour[:, :, None, None, None] * shade[:, None].clamp(0.6, 1.3)

    light = chance.uniform(0.10, 0.35)[:, None, None]
    light = 1 + light * (0.5 - y / SIZE)  # [B, R, 1], brighter above
    picture = torch.lerp(backdrop[:, None].expand_as(figure), figure, cover[:, None])
    return (picture * light[:, None, None]).clamp(0, 1), cover


class Chance:
    """Uniform draws per clip."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator

    def uniform(self, low: float, high: float, width: int | None = None) -> Tensor:
        """[B] or [B, width] numbers in low..high."""
        shape = (self.count,) if width is None else (self.count, width)
        return low + (high - low) * torch.rand(shape, generator=self.generator)


def signed_distance(shape: str, dy: Tensor, dx: Tensor, radius: Tensor) -> Tensor:
    """Distance in pixels to the edge of a shape centred at 0, negative inside. Broadcasts."""
    if shape == "circle":
        return (dy.square() + dx.square()).sqrt() - radius
    if shape == "square":
        return torch.maximum(dy.abs(), dx.abs()) - 0.88 * radius
    if shape == "triangle":  # upright, its three sides at equal distance from the centre
        slanted = 0.866 * dx.abs() - 0.5 * dy
        return torch.maximum(slanted, dy) - 0.62 * radius
    if shape == "ring":
        middle = (dy.square() + dx.square()).sqrt() - 0.80 * radius
        return middle.abs() - 0.27 * radius
    raise ValueError(f"shape: got {shape!r}, known are {', '.join(SHAPES)}")


def _pixel_axes() -> tuple[Tensor, Tensor]:
    axis = torch.arange(SIZE) + 0.5
    return axis[:, None], axis[None, :]


def _cover(scenes: list[Scene], dy: Tensor, dx: Tensor, radius: Tensor) -> Tensor:
    """Share of each pixel covered by the shape, [B, F, R, C]."""
    cover = torch.empty_like(dy + dx)
    kind = torch.tensor([s.shape for s in scenes])
    for index, name in enumerate(SHAPES):
        rows = kind == index
        cover[rows] = 0.5 - signed_distance(name, dy[rows], dx[rows], radius[rows])
    return cover.clamp_(0, 1)


def _trajectories(scenes: list[Scene], time: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Centre [B, F, 2] as (y, x) and radius [B, F], in pixels."""
    motion = torch.tensor([s.motion for s in scenes])
    drifting, falling, growing = (motion == MOTIONS.index(m) for m in MOTIONS[1:])
    radius = chance.uniform(9.0, 13.0)
    small, large = chance.uniform(5.0, 7.5), chance.uniform(14.0, 18.0)
    start_radius = torch.where(growing, small, radius)
    end_radius = torch.where(growing, large, radius)
    side = torch.where(chance.uniform(-1, 1) < 0, -1.0, 1.0)
    way = chance.uniform(20, 32)
    travel = torch.stack([way * falling, way * side * drifting], dim=1)  # [B, 2]
    margin = end_radius + 2
    room = (SIZE - 2 * margin[:, None] - travel.abs()).clamp(min=0)  # [B, 2]
    middle = margin[:, None] + travel.abs() / 2 + room * chance.uniform(0, 1, 2)
    centre = middle[:, None] + travel[:, None] * (time[None, :, None] - 0.5)
    return centre, start_radius[:, None] + (end_radius - start_radius)[:, None] * time


def _backgrounds(scenes: list[Scene], drift: Tensor, chance: Chance) -> Tensor:
    """Grey levels [B, F, R, C]."""
    kind = torch.tensor([s.background for s in scenes])[:, None, None, None]
    y, x = _pixel_axes()
    phase = chance.uniform(0, CHECK_PERIOD, 2)[:, None] - drift  # [B, F, 2]
    v = y + phase[..., 0, None, None]
    u = x + phase[..., 1, None, None]
    stripes = _soft_square_wave(u, STRIPE_PERIOD).expand(-1, -1, SIZE, SIZE)
    checks = _soft_square_wave(u, CHECK_PERIOD) * _soft_square_wave(v, CHECK_PERIOD)
    dark, light = (chance.uniform(*r)[:, None, None, None] for r in ((0.12, 0.24), (0.68, 0.80)))
    contrast = chance.uniform(0.12, 0.20)[:, None, None, None]
    grey = torch.where(kind == BACKGROUNDS.index("dark"), dark, light)
    grey = torch.where(kind == BACKGROUNDS.index("striped"), 0.45 + contrast * stripes, grey)
    return torch.where(kind == BACKGROUNDS.index("checkered"), 0.45 + contrast * checks, grey)


def _soft_square_wave(position: Tensor, period: int) -> Tensor:
    """A wave of −1 and 1 whose edges are about one pixel wide."""
    phase = position % period
    to_edge = torch.minimum(torch.minimum(phase, period - phase), (phase - period / 2).abs())
    return torch.where(phase < period / 2, to_edge, -to_edge).clamp(-0.5, 0.5) * 2
