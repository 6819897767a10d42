"""Calls that use a source kept earlier: its rows come into the call as guests, and leave it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .edits.replay import Replay
from .freezing import Frozen
from .operands import Operands
from .plan import AttentionPlan, Source
from .program import Edit
from .sites import Call, Layout, size_in_words
from .sources import Kept, Key, SourceHeader
from .steps import Schedule


def check_source(
    edit: Edit, layout: Layout, schedule: Schedule, chosen: dict[str, tuple[int, ...]]
) -> None:
    """Raises ValueError unless the sampling is one that the source can be replayed in."""
    assert isinstance(edit.change, Replay)
    header, name = edit.change.source.header, edit.asker.name
    same = len(header.sigmas) == len(schedule.sigmas) and all(
        abs(a - b) <= 1e-4 * max(1.0, b)
        for a, b in zip(schedule.sigmas, header.sigmas, strict=True)
    )
    facts = {
        "model": (f"{layout.family} with {layout.layers} layers", header.model),
        "sampler": (schedule.sampler, header.sampler),
        "number of steps": (schedule.steps, len(header.sigmas) - 1),
    }
    for what, (now, then) in facts.items():
        if now != then:
            raise ValueError(
                f"{name}: the {what} is {now}, but the source's was {then}; use the same"
            )
    if not same:
        raise ValueError(
            f"{name}: the noise levels differ from the source's; use the same scheduler, denoise "
            "and shift"
        )
    _check_kept(edit, header, schedule, chosen)


def check_size(edit: Edit, latent: tuple[int, ...]) -> None:
    """Raises ValueError unless a video [B, C, F, H, W] is of the source's size."""
    if not isinstance(edit.change, Replay):
        return
    then = edit.change.source.header.latent
    if latent[1:] != then[1:] or then[0] not in (1, latent[0]):
        raise ValueError(
            f"{edit.asker.name}: the latent is {size_in_words(latent)}, but the source's was "
            f"{size_in_words(then)}; use the same size and length, and a batch of the source's "
            "size (or a source of one)"
        )


def _check_kept(
    edit: Edit, header: SourceHeader, schedule: Schedule, chosen: dict[str, tuple[int, ...]]
) -> None:
    name, kept = edit.asker.name, {key[:2] for key in header.kept}
    for site, heads in chosen.items():
        if missing := sorted(set(heads) - set(header.heads.get(site, ()))):
            raise ValueError(
                f"{name}: heads {', '.join(map(str, missing))} of {site} are not in the source; "
                "choose others here, or more on VDiT Record Source"
            )
        for number, level in enumerate(header.levels):
            if schedule.inside(edit.window, level) and (site, number) not in kept:
                raise ValueError(
                    f"{name}: the source holds no noise level {level:.4g} of {site}; narrow "
                    "start_percent and end_percent, or widen them on VDiT Record Source"
                )


@dataclass(frozen=True)
class Guests:
    """Kept rows that rows of a call may follow. rows: whom each is for. heads: [n], those kept."""

    rows: list[int]
    kept: list[Kept]
    heads: list[int]


def guests_of(edits: Sequence[Edit], frozen: Frozen, call: Call, x: Operands) -> Guests | None:
    """The source's rows for the rows that these edits change; None where there are none."""
    if not edits:
        return None
    rows = torch.stack([call.rows(edit.branch) for edit in edits]).any(0).nonzero()[:, 0].tolist()
    if not rows:
        return None
    edit = edits[-1]  # all are of one origin, see check_sources
    kept = [_found(edit, frozen, call, row) for row in rows]
    _check_lengths(edits, call, x, kept)
    return Guests(rows, kept, [*_heads(edit, call)])


def followed(
    guests: Guests | None,
    call: Call,
    x: Operands,
    plan_of: Callable[[Call, Operands], AttentionPlan],
) -> tuple[Call, Operands, AttentionPlan]:
    """The plan of a call beside its guests, with what it needs of them to be carried out.

    Where they are followed in full their Q and K take the places of their followers'; otherwise
    they stand in front, as rows of the batch.
    """
    if guests is None:
        return call, x, plan_of(call, x)
    beside, n = call.with_guests(guests.rows), len(guests.rows)
    lengths = x.prompts if x.prompts is None else torch.cat([x.prompts[guests.rows], x.prompts])
    plan = plan_of(beside, replace(x, prompts=lengths))
    source = plan.source
    if plan.video is not None or source is None:
        return beside, _in_front(guests, x, lengths), plan
    if not bool(((source.strength == 0) | (source.strength == 1)).all()):
        return beside, _in_front(guests, x, lengths), plan
    return call, _in_place(guests, x, source, n), replace(plan, source=None).of_rows(n)


def _in_front(guests: Guests, x: Operands, lengths: Tensor | None) -> Operands:
    """With the guests as the first rows of the batch. lengths: of all their prompts."""
    rows, kept, heads = guests.rows, guests.kept, torch.tensor(guests.heads).to(x.q.device)

    def joined(own: Tensor, field: str) -> Tensor:
        first = own[rows].clone()
        for guest, one in zip(first, kept, strict=True):
            here, there = _shared_tokens(x, one)
            guest[heads, here] = getattr(one, field)[:, there].to(own)
        return torch.cat([first, own])

    mask = x.mask
    if mask is not None and mask.shape[0] > 1:
        own = mask[rows]
        masks = [o if _differs(x, one) else one.mask for o, one in zip(own, kept, strict=True)]
        assert all(each is not None for each in masks)
        mask = torch.cat([*(each[None].to(mask) for each in masks if each is not None), mask])
    values = torch.cat([x.v[rows], x.v])
    more = replace(x, q=joined(x.q, "q"), k=joined(x.k, "k"), v=values, mask=mask)
    return replace(more, prompts=lengths)


def _in_place(guests: Guests, x: Operands, source: Source, n: int) -> Operands:
    """With Q and K of the guests in their followers' heads, and their masks where rows differ.

    source: of the n guests and the call's own rows.
    """
    q, k, mask = x.q.clone(), x.k.clone(), x.mask
    if mask is not None and mask.shape[0] > 1:
        mask = mask.expand(-1, q.shape[1], -1, -1).clone()
    for row, (guest, strength) in enumerate(zip(source.rows[n:], source.strength[n:], strict=True)):
        heads: list[int] = strength.nonzero()[:, 0].tolist()
        if not heads:
            continue
        one, at = guests.kept[int(guest)], [guests.heads.index(head) for head in heads]
        q[row, heads], k[row, heads] = one.q[at].to(q), one.k[at].to(k)
        if mask is not None and mask.shape[0] > 1:
            assert one.mask is not None
            mask[row, heads] = one.mask.to(mask).expand(mask.shape[1:])[heads]
    return replace(x, q=q, k=k, mask=mask)


def _check_lengths(edits: Sequence[Edit], call: Call, x: Operands, kept: Sequence[Kept]) -> None:
    """Raises ValueError where an edit follows text that is longer or shorter than the source's."""
    lengths = dict.fromkeys(one.q.shape[1] for one in kept if _differs(x, one))
    for edit in edits if lengths else ():
        if edit.change.region == "all":
            raise ValueError(
                f"{edit.asker.name}: {call.site} has {x.q.shape[2]} tokens, the source "
                f"{', '.join(map(str, lengths))}: video and text attend together and the prompts "
                "differ in length; choose region video→video, or prompts of as many tokens"
            )


def _differs(x: Operands, one: Kept) -> bool:
    return one.q.shape[1] != x.q.shape[2]


def _shared_tokens(x: Operands, one: Kept) -> tuple[slice, slice]:
    """The tokens of a call that a source can stand for, and where it has them: all, or the video's
    where the text beside it differs in length."""
    if not _differs(x, one):
        return slice(None), slice(None)
    here = x.grid().video
    start = here.start + one.q.shape[1] - x.q.shape[2] if here.start else 0
    return here, slice(start, start + here.stop - here.start)


def _found(edit: Edit, frozen: Frozen, call: Call, row: int) -> Kept:
    """What a row takes its map from."""
    if not isinstance(edit.change, Replay):
        return frozen.get(edit, call, row)
    source, name = edit.change.source, edit.asker.name
    _check_level(name, source.header, call)
    return source.shelf.get(_key(name, source.header, call, row))


def _heads(edit: Edit, call: Call) -> Sequence[int]:
    """Which heads were kept."""
    if isinstance(edit.change, Replay):
        return edit.change.source.header.heads[call.site.name]
    return range(call.site.heads)


def _check_level(name: str, header: SourceHeader, call: Call) -> None:
    known = call.evaluation < len(header.levels)
    if not known or abs(header.levels[call.evaluation] - call.sigma) > 1e-4 * max(1.0, call.sigma):
        raise ValueError(
            f"{name}: evaluation {call.evaluation} of the model is at noise level "
            f"{call.sigma:.4g}, but the source's was not; use the same sampler, steps, scheduler "
            "and shift"
        )


def _key(name: str, header: SourceHeader, call: Call, row: int) -> Key:
    """What the source calls the row that a row takes its map from."""
    branch, prompt, item = call.label(row)
    item = item if header.latent[0] > 1 else 0  # a source of one video serves all
    key = call.site.name, call.evaluation, branch, prompt, item
    if key not in header.keys:
        raise ValueError(
            f"{name}: the source holds no {branch} call of video {item} (prompt "
            f"{prompt}); use the same cfg and batch, or choose another branch"
        )
    return key
