"""What the prompt's tokens receive, in every family, against dense maps of the calls themselves."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention as core
import pytest
import torch
from torch import Tensor
from vdit_attention.tests.nodes.families import (
    COGVIDEOX,
    FAMILIES,
    JOINT,
    LAYERS,
    LTX_VIDEO,
    MOCHI,
    VIDEO,
    WAN,
    Family,
    Seen,
    Spy,
)
from vdit_attention.tests.nodes.tiny import edited
from vdit_attention.tests.oracle import Case, no_wish
from vdit_attention.vdit_core.edits.text import HideText
from vdit_attention.vdit_core.host.comfy import attach
from vdit_attention.vdit_core.program import Asker, Capture
from vdit_attention.vdit_core.record import Record, RecordData, load_record, save_record
from vdit_attention.vdit_core.selection import parse_selection, parse_where

LENGTHS = {"cond": 6, "uncond": 4}
BRANCHES = tuple(LENGTHS)
CROSS = WAN, LTX_VIDEO


def captured(family: Family, layers: str = "all", **how: Any) -> tuple[RecordData, list[Seen]]:
    """A record with the text of some layers, and every attention call of the blocks."""
    model = how.pop("model", None) or family.make()
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(core.attention_pytorch)
        patch.setattr(f"{family.module}.optimized_attention", spy)
        if hasattr(import_module(family.module), "optimized_attention_masked"):  # of older LTX
            patch.setattr(f"{family.module}.optimized_attention_masked", spy)
        where, at, record = parse_where(layers, "0,2"), parse_selection("all", "steps"), Record()
        model = attach(model, Capture(Asker("Capture"), where, at, record, more=("text",)))
        family.sample(model, steps=1, **how)
    return record.data, [seen for seen in spy.seen if seen.q.shape[2] >= VIDEO]


def true_map(calls: Sequence[Seen], layer: int, branch: str) -> Tensor:
    """[heads 0 and 2, Lq, Lk] of the one call of a layer for a branch, in float64."""
    chunk = BRANCHES.index(branch)
    mine = [seen for seen in calls if chunk in seen.chunks]
    assert len(mine) == LAYERS
    seen = mine[layer]
    wish = no_wish(seen.q.shape[0], seen.heads)
    mask = seen.mask
    if mask is not None and mask.ndim < 4:
        mask = mask[None, None] if mask.ndim == 2 else mask[:, None]
    maps = Case(seen.q, seen.k, seen.v, wish, mask).true_maps()
    return maps[seen.chunks.index(chunk), [0, 2]]


@pytest.mark.parametrize("family", JOINT, ids=lambda family: family.name)
def test_where_both_attend_together_text_is_part_of_the_map(family: Family) -> None:
    alike = family is COGVIDEOX  # core repeats its prompts until they are equally long
    data, calls = captured(family, **({"negative": family.prompt(2)} if alike else {}))
    assert not data.cross and len(data.measurements) == 2 * LAYERS
    for m in data.measurements:
        length = 6 if alike else LENGTHS[m.branch]
        maps = true_map(calls, m.layer, m.branch)
        start = 0 if family.text_first else VIDEO
        text, video = slice(start, start + length), slice(length, None)
        video = video if family.text_first else slice(0, VIDEO)
        received, own = maps[:, video, text].mean(1), maps[:, text, text].mean(1)
        assert m.tokens == length and m.heads == (0, 2)
        assert m.measures.text_mass is not None and m.measures.text_own_mass is not None
        close = {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(m.measures.text_mass.double(), received, **close)
        torch.testing.assert_close(m.measures.text_own_mass.double(), own, **close)


@pytest.mark.parametrize("family", CROSS, ids=lambda family: family.name)
def test_where_text_is_outside_its_own_attention_is_measured(family: Family) -> None:
    data, calls = captured(family, layers="0,2")
    assert {m.site.split(".")[-1] for m in data.measurements} <= {"self_attn", "attn1"}
    assert all(m.measures.text_mass is None and m.tokens is None for m in data.measurements)
    assert [(m.layer, m.branch) for m in data.cross] == [
        (m.layer, m.branch) for m in data.measurements
    ]
    for m in data.cross:
        maps = true_map([seen for seen in calls if seen.cross], m.layer, m.branch)
        assert m.tokens == LENGTHS[m.branch] and m.heads == (0, 2)
        assert m.site.endswith(("cross_attn", "attn2"))
        close = {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(m.measures.text_mass.double(), maps.mean(1), **close)
        entropy = torch.special.entr(maps).sum(-1).mean(-1)
        torch.testing.assert_close(m.measures.entropy.double(), entropy, **close)


def test_prompts_padded_with_zeros_are_told_from_their_padding() -> None:
    text, extras = WAN.prompt(1, 5)[0]
    padded = torch.cat([text, torch.zeros(1, 3, text.shape[2])], 1)
    data, _ = captured(WAN, layers="1", positive=[[padded, extras]])
    lengths = {m.branch: m.tokens for m in data.cross}
    assert lengths == {"cond": 5, "uncond": 4}
    (cond,) = (m for m in data.cross if m.branch == "cond")
    assert cond.measures.text_mass.shape[1] == 8
    torch.testing.assert_close(cond.measures.text_mass.sum(1), torch.ones(2))


def test_hidden_tokens_are_still_of_the_prompt() -> None:
    model = edited(MOCHI.make(), HideText(2), branch="cond")
    data, _ = captured(MOCHI, model=model, layers="0")
    (cond,) = (m for m in data.measurements if m.branch == "cond")
    assert cond.tokens == 6 and cond.measures.text_mass is not None
    assert bool((cond.measures.text_mass[:, 2:] == 0).all())
    assert bool((cond.measures.text_mass[:, :2] > 0).all())


def test_two_prompts_of_one_batch_have_each_its_length() -> None:
    prompts = [LTX_VIDEO.prompt(seed, tokens)[0] for seed, tokens in ((1, 7), (3, 5))]
    mask = torch.cat([extras["attention_mask"] for _, extras in prompts])
    both = [[torch.cat([text for text, _ in prompts]), {"attention_mask": mask}]]
    how: dict[str, Any] = {"positive": both, "latent": LTX_VIDEO.latent(2)}
    data, _ = captured(LTX_VIDEO, layers="1", **how)
    found = {m.item: m for m in data.cross if m.branch == "cond"}
    assert {item: m.tokens for item, m in found.items()} == {0: 7, 1: 5}
    assert bool((found[1].measures.text_mass[:, 5:] == 0).all())


@pytest.mark.parametrize("family", [MOCHI, WAN], ids=lambda family: family.name)
def test_what_was_saved_comes_back_equal(family: Family, tmp_path: Path) -> None:
    data, _ = captured(family)
    save_record(data, tmp_path / "a.safetensors")
    back = load_record(tmp_path / "a.safetensors")
    assert back.header == data.header and len(back.cross) == len(data.cross)
    for old, new in zip(
        (*data.measurements, *data.cross), (*back.measurements, *back.cross), strict=True
    ):
        assert (new.site, new.branch, new.tokens) == (old.site, old.branch, old.tokens)
        for name, value in vars(old.measures).items():
            again = getattr(new.measures, name)
            assert again is None if value is None else torch.equal(again, value), name


def test_readers_of_maps_never_see_cross_attention() -> None:
    data, _ = captured(WAN)
    assert data.find(layer=1, step=0, branch="cond").site == "blocks.1.self_attn"
    assert len(data.measurements) == len(data.cross) == 2 * LAYERS


def test_families_are_covered() -> None:
    assert {*JOINT, *CROSS} == {*FAMILIES}
