"""Names: where an attention call happens (site), and when and for whom (call)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .grid import TokenGrid

Kind = Literal["self", "cross", "joint"]
BRANCHES = ("both", "cond", "uncond")


@dataclass(frozen=True)
class Site:
    """One attention of the model, named like its module: `blocks.12.self_attn`.

    layer: its number counted over the whole model. order: which attention of its owner module
    (image-to-video Wan makes two cross-attentions in one module).
    """

    name: str
    layer: int
    kind: Kind
    heads: int
    order: int = 0

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation of the model is given.

    latent: shape of the noisy video, [B, C, F, H, W]. prompt: tokens of the text. named: the
    family's own keyword arguments.
    """

    latent: tuple[int, ...]
    prompt: int
    named: Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """What a family knows of one model: its sites by owner module, its layers and their heads.

    grid: where the tokens of a sequence lie, from the evaluation and the number of tokens.
    refiner: a module that mixes the tokens of the text before the layers see them. check: raises
    ValueError for what a model may be given and this family's calls cannot be labelled with.
    """

    family: str
    owners: dict[nn.Module, tuple[Site, ...]]
    grid: Callable[[Evaluation, int], TokenGrid]
    refiner: nn.Module | None = None
    check: Callable[[Evaluation], None] = lambda _: None

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(site for sites in self.owners.values() for site in sites)

    @property
    def layers(self) -> int:
        """How many layers a layer text may name."""
        return len(self.numbered)

    @property
    def heads(self) -> tuple[int, ...]:
        """How many heads each layer has."""
        return tuple(site.heads for site in self.numbered)

    @property
    def numbered(self) -> tuple[Site, ...]:
        """The attention that a layer text names, self or joint, in layer order."""
        found = (site for site in self.sites if site.kind != "cross")
        return tuple(sorted(found, key=lambda site: site.layer))

    def of_text(self) -> tuple[Site, ...]:
        """The cross-attention to the text in layer order; what comes before it is to an image."""
        last = [sites[-1] for sites in self.owners.values()]
        return tuple(sorted((s for s in last if s.kind == "cross"), key=lambda s: s.layer))


@dataclass(frozen=True)
class Excerpt:
    """Latent frames of the video that a call sees, in its order, where it sees some `of` them."""

    frames: tuple[int, ...]
    of: int

    def __str__(self) -> str:
        return f"latent frames {in_runs(self.frames)} of {self.of}"


@dataclass(frozen=True)
class Call:
    """One execution of a site, row by row.

    branches: for each batch row "cond", "uncond", or a name of the guider's own.
    items: for each row its place in the user's batch. step: the one whose interval of the schedule
    holds sigma. evaluation: of the model, counted over the whole sampling.
    prompts: for each row which prompt of its branch, where regions have prompts of their own.
    excerpt: None where the call sees the whole video.
    guests: so many of the first rows had a call of their own and are only here as sources.
    """

    site: Site
    step: int
    evaluation: int
    sigma: float
    branches: tuple[str, ...]
    items: tuple[int, ...]
    prompts: tuple[int, ...] = ()
    excerpt: Excerpt | None = None
    guests: int = 0

    @property
    def whom(self) -> tuple[object, ...]:
        """What tells this call from others of the same site at another time."""
        return self.site, self.branches, self.items, self.prompts, self.excerpt

    def rows(self, branch: str) -> Tensor:
        """Which rows belong to a branch and are no guests, [B] bool."""
        rows = torch.tensor([branch in ("both", name) for name in self.branches])
        rows[: self.guests] = False
        return rows

    def label(self, row: int) -> tuple[str, int, int]:
        """Branch, prompt of it, and item of a row."""
        return self.branches[row], self.prompts[row] if self.prompts else 0, self.items[row]

    def with_guests(self, of: list[int]) -> Call:
        """The call with a guest in front for each of some rows, labelled like it."""
        first = [tuple(labels[row] for row in of) for labels in (self.branches, self.items)]
        prompts = tuple(self.prompts[row] for row in of) if self.prompts else ()
        branches, items = first[0] + self.branches, first[1] + self.items
        return replace(
            self, branches=branches, items=items, prompts=prompts + self.prompts, guests=len(of)
        )

    def guest_rows(self) -> Tensor:
        """For each row the guest that is labelled like it, or else itself. [B] int64"""
        labels = [self.label(row) for row in range(len(self.items))]
        guests = {label: n for n, label in enumerate(labels[: self.guests])}
        return torch.tensor([guests.get(label, n) for n, label in enumerate(labels)])

    def source_rows(self) -> Tensor:
        """For each row the row of its pair's source: items 0, 2, 4 … are sources. [B] int64.

        A pair's rows are neighbours, in each of the conditionings that share a batch.
        """
        return torch.tensor([row - item % 2 for row, item in enumerate(self.items)])

    def target_rows(self) -> Tensor:
        """Which rows are the second of a pair, [B] bool."""
        return torch.tensor([item % 2 == 1 for item in self.items])


def size_in_words(latent: Sequence[int]) -> str:
    """Of a video [B, C, F, H, W]."""
    batch, channels, *size = latent
    return f"{' × '.join(map(str, size))} of {channels} channels in a batch of {batch}"


def in_runs(numbers: Iterable[int]) -> str:
    """0, 1, 2, 7 → 0-2, 7; the order is kept."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
