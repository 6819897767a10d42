"""Keeping a source: Q and K of the calls that one node asked for, while they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from .operands import Operands
from .program import Keep
from .sites import Call, Layout, Site
from .sources import DTYPES, Kept, Key, SourceHeader
from .steps import Schedule

ROOM = 0.9  # of what is free may be used


class Keeper:
    """What one node keeps of one sampling. say: shows a line on the node before it begins."""

    def __init__(
        self,
        spec: Keep,
        chosen: Mapping[Site, tuple[int, ...]],
        layout: Layout,
        schedule: Schedule,
        say: Callable[[str], None],
    ) -> None:
        self.spec, self.chosen, self.layout, self.schedule = spec, chosen, layout, schedule
        self.kept: list[Key] = []
        self._say = say

    def hear(self, call: Call, x: Operands) -> bool:
        """Keep a call's rows, if they are asked for; whether any were."""
        spec = self.spec
        if call.site not in self.chosen or not self.schedule.inside(spec.window, call.sigma):
            return False
        rows: list[int] = call.rows(spec.branch).nonzero()[:, 0].tolist()
        if rows:
            self._check_mask(x)
        heads = torch.tensor(self.chosen[call.site]).to(x.q.device)
        for row in rows:
            q, k = (part[row, heads].to(DTYPES[spec.dtype]).cpu() for part in (x.q, x.k))
            if not self.kept:
                self._check_room((q.nbytes + k.nbytes) * len(rows))
            mask = x.own_mask(row)
            key = call.site.name, call.evaluation, *call.label(row)
            spec.source.shelf.put(key, Kept(q, k, None if mask is None else mask.cpu()))
            self.kept.append(key)
        return bool(rows)

    def header(self, levels: tuple[float, ...], latent: tuple[int, ...]) -> SourceHeader:
        """Of a sampling that ended well."""
        schedule, heads = self.schedule, {site.name: heads for site, heads in self.chosen.items()}
        where = self.layout.family, self.layout.layers, schedule.sampler, schedule.sigmas
        return SourceHeader(*where, levels, latent, self.spec.dtype, heads, tuple(self.kept))

    def _check_mask(self, x: Operands) -> None:
        mask = x.mask
        if mask is not None and mask.shape[0] > 1 and mask.shape[1:3] != (1, 1):
            raise ValueError(
                f"{self.spec.asker.name}: the model's attention mask differs from query to query, "
                "which a source cannot hold; use VDiT Transfer with a pair instead"
            )

    def _check_room(self, each: int) -> None:
        """Before anything is kept: say how much all of it takes, refuse what does not fit.

        each: bytes of a call; with guidance it may be half of what a layer keeps in a step.
        """
        sigmas = self.schedule.sigmas[: self.schedule.steps]
        steps = sum(self.schedule.inside(self.spec.window, sigma) for sigma in sigmas)
        wanted, free = each * len(self.chosen) * steps, self.spec.source.shelf.free()
        size = f"about {_megabytes(wanted)} ({len(self.chosen)} layers × {steps} steps × "
        self._say(f"keeping {size}{_megabytes(each)} as {self.spec.dtype})")
        if wanted > ROOM * free:
            raise ValueError(
                f"{self.spec.asker.name}: it would keep {size}{_megabytes(each)}), but only "
                f"{_megabytes(free)} are free there; choose fewer layers or heads, a shorter "
                "window, dtype bf16, or the other place"
            )


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"
