"""Every family, through ComfyUI's sampler: its text, its edits, and its pairs.

Each test is a column of the table that ends a test run (see tests/conftest.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.families import (
    FAMILIES,
    HUNYUAN_VIDEO,
    JOINT,
    LTX_VIDEO,
    MOCHI,
    WAN,
    Family,
    Seen,
    dense,
)
from vdit_attention.tests.nodes.tiny import COLS, FRAMES, HEADS, LAYERS, ROWS
from vdit_attention.tests.oracle import Case, Wish, assert_as_good_as_torch, no_wish
from vdit_attention.vdit_core.edits import Change
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.sparsity import Sparsify
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.text import HideText
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.pairs import pair_latent, pair_prompts
from vdit_attention.vdit_core.prompts import first_tokens
from vdit_attention.vdit_core.record import RecordData

each_joint_family = pytest.mark.parametrize("family", JOINT, ids=lambda family: family.name)


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name, scope="module")
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def model(family: Family) -> ModelPatcher:
    return family.make()


def captured(family: Family, model: ModelPatcher, **how: Any) -> RecordData:
    watched, record = tiny.watched(model)
    family.sample(watched, **how)
    return record.data


@pytest.mark.column("text span right")
@each_joint_family
def test_swapped_words_swap_their_tokens(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Position means nothing to these models' text but through the order of the tokens."""
    model, prompt, swapped = family.make(), family.prompt(1), family.prompt(1)
    words: Tensor = swapped[0][0]
    words[:, [1, 4]] = words[:, [4, 1]]
    before, after = (
        family.spied(model, monkeypatch, positive=positive, cfg=1.0, steps=1)[0]
        for positive in (prompt, swapped)
    )
    text = captured(family, model, cfg=1.0, steps=1).header.grid.text
    assert text is not None
    assert text[1] - text[0] == 6
    assert text[0] == (0 if family.text_first else FRAMES * ROWS * COLS)
    first, other = text[0] + 1, text[0] + 4
    assert not torch.allclose(before.v[:, :, first], before.v[:, :, other], atol=1e-2)
    expected = before.v.clone()
    expected[:, :, [first, other]] = before.v[:, :, [other, first]]
    torch.testing.assert_close(after.v, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.column("text span right")
@pytest.mark.parametrize("family", [WAN, LTX_VIDEO], ids=lambda family: family.name)
def test_models_without_joint_attention_have_no_text_among_their_tokens(family: Family) -> None:
    assert captured(family, family.make(), steps=1).header.grid.text is None


@pytest.mark.column("text span right")
@each_joint_family
def test_prompts_of_other_lengths_have_grids_of_their_own(family: Family) -> None:
    watched, record = tiny.watched(family.make())
    negative = family.prompt(2, 3)
    family.sample(watched, positive=family.prompt(1, 6), negative=negative, steps=1)
    lengths = {"cond": 6, "uncond": 3}
    if family.name == "CogVideoX":  # core repeats both prompts to one length
        lengths = {"cond": 6, "uncond": 6}
    for m in record.data.measurements:
        grid = record.data.header_of(m).grid
        assert len(grid) == tiny.TOKENS + lengths[m.branch]
        assert grid.text is not None
        assert grid.text[1] - grid.text[0] == lengths[m.branch]


def chosen(seen: Seen, heads: list[int], branch: int | None = None, odd: bool = False) -> Tensor:
    """[B, H] bool: these heads of a branch, of all videos or of the second of each pair."""
    items = len(seen.q) // len(seen.chunks)
    rows = [
        branch in (None, chunk) and (not odd or item % 2 == 1)
        for chunk in seen.chunks
        for item in range(items)
    ]
    out = torch.zeros(len(rows), HEADS, dtype=torch.bool)
    out[:, heads] = True
    return out & torch.tensor(rows)[:, None]


EDITS: dict[str, tuple[Change, dict[str, Any], dict[str, Any]]] = {
    "temperature": (Temperature(0.4), {"heads": "0,2"}, {"heads": [0, 2]}),
    "skip": (Skip(), {"heads": "1", "branch": "uncond"}, {"heads": [1], "branch": 1}),
    "identity": (Perturb("identity", 1.0), {"heads": "3"}, {"heads": [3]}),
    "uniform": (Perturb("uniform", 0.4), {"branch": "cond"}, {"heads": [0, 1, 2, 3], "branch": 0}),
    "transfer": (PairTransfer(1.0), {}, {"heads": [0, 1, 2, 3], "odd": True}),
    "transfer in part": (PairTransfer(0.6), {"heads": "0,2"}, {"heads": [0, 2], "odd": True}),
}
SETS = {  # the field of the plan, and its value
    "temperature": ("temperature", 0.4),
    "skip": ("gate", 0.0),
    "identity": ("identity", 1.0),
    "uniform": ("uniform", 0.4),
}


def wished(name: str, seen: Seen) -> Wish:
    wish, where = no_wish(len(seen.q), HEADS), chosen(seen, **EDITS[name][2])
    if name in SETS:
        field, value = SETS[name]
        getattr(wish, field)[where] = value
        return wish
    wish.strength[where] = 1.0 if name == "transfer" else 0.6
    wish.rows.copy_(torch.arange(len(seen.q)) // 2 * 2)
    return wish


@pytest.mark.column("edits equal dense float64")
@pytest.mark.parametrize("name", EDITS)
def test_edits_are_as_exact_as_plain_torch(
    name: str, family: Family, model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, where, _ = EDITS[name]
    calls = family.spied(
        tiny.edited(model, change, **where),
        monkeypatch,
        positive=pair_prompts(family.prompt(1), family.prompt(3)),
        latent=pair_latent(family.latent()),
    )
    assert len(calls) % LAYERS == 0
    for seen in calls:
        assert len(seen.q) in (2, 4)
        assert_as_good_as_torch(seen.out, unpadded(family, name, seen, wished(name, seen)))


@pytest.mark.column("video→video equals dense float64")
@pytest.mark.parametrize("name", EDITS)
@each_joint_family
def test_edits_of_the_video_among_itself_are_as_exact_as_plain_torch(
    family: Family, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change: Any = EDITS[name][0]
    model = tiny.edited(family.make(), replace(change, region="video→video"), **EDITS[name][1])
    calls = family.spied(
        model,
        monkeypatch,
        positive=pair_prompts(family.prompt(1), family.prompt(3)),
        latent=pair_latent(family.latent()),
    )
    for seen in calls:
        first = seen.q.shape[2] - tiny.TOKENS if family.text_first else 0
        wish = replace(
            no_wish(len(seen.q), HEADS),
            video=wished(name, seen),
            span=slice(first, first + tiny.TOKENS),
        )
        assert_as_good_as_torch(seen.out, unpadded(family, name, seen, wish))


def unpadded(family: Family, name: str, seen: Seen, wish: Wish) -> Case:
    """What a call should give; in a transfer Mochi's pairs do not see their padding."""
    case = dense(seen, wish)
    if family is not MOCHI or not name.startswith("transfer") or 0 not in seen.chunks:
        return case
    key = torch.arange(seen.q.shape[2])
    hidden = (key >= tiny.TOKENS + 6)[None].expand(len(seen.q), -1)
    return Case(case.q, case.k, case.v, case.wish, ~hidden[:, None, None])


@pytest.mark.column("edits equal dense float64")
def test_sparsity_drops_the_smallest_weights_of_each_head(
    family: Family, model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_length = {"positive": family.prompt(1), "negative": family.prompt(2)}  # or core repeats
    thinned = tiny.edited(model, Sparsify((0.6,) * LAYERS))
    calls = family.spied(thinned, monkeypatch, **same_length)
    for seen in calls:
        maps = dense(seen).true_maps()
        weights = maps.flatten(2).sort().values
        threshold = weights[..., int(0.6 * weights.shape[-1]), None, None]
        kept = maps * (maps >= threshold)
        expected = kept / kept.sum(-1, keepdim=True).clamp_min(1e-300) @ seen.v.double()
        torch.testing.assert_close(seen.out.double(), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.column("pairs are true")
@pytest.mark.parametrize("tokens", [(4, 7), (7, 4), (6, 6)], ids=str)
def test_the_source_of_a_pair_is_the_video_of_its_prompt_alone(
    tokens: tuple[int, int], family: Family, model: ModelPatcher
) -> None:
    if family.name in ("Wan", "CogVideoX") and tokens[0] != tokens[1]:
        tokens = (6, 6)  # their encoders pad all prompts to one length, and their models see it
    source, target = (family.prompt(5 + i, n) for i, n in enumerate(tokens))
    pair = {"positive": pair_prompts(source, target), "latent": pair_latent(family.latent())}
    edited = tiny.edited(model, PairTransfer(1.0), layers="1")
    both, alone = family.sample(edited, **pair), family.sample(model, positive=source)
    torch.testing.assert_close(both[:1], alone, rtol=1e-3, atol=1e-3)
    changed = (both[1:] - family.sample(model, positive=target)).abs().max()
    assert changed > 20 * (both[:1] - alone).abs().max()


@pytest.mark.column("pairs are true")
@pytest.mark.parametrize("family", [MOCHI, HUNYUAN_VIDEO], ids=lambda family: family.name)
def test_padding_would_be_noticed(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pair's own masks the shorter source is another video."""
    from vdit_attention.vdit_core.host.conditionings import Conditionings

    monkeypatch.setattr(Conditionings, "prompts", lambda *_: None)
    model, source, target = family.make(), family.prompt(5, 4), family.prompt(6, 7)
    pair = {"positive": pair_prompts(source, target), "latent": pair_latent(family.latent())}
    both = family.sample(tiny.edited(model, PairTransfer(1.0), layers="1"), **pair)
    assert not torch.allclose(both[:1], family.sample(model, positive=source), atol=1e-2)


@pytest.mark.column("edits equal dense float64")
@each_joint_family
def test_hidden_words_are_not_looked_at(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.edited(family.make(), HideText(2), "1", "0,3", branch="cond")
    same_length = {"positive": family.prompt(1), "negative": family.prompt(2)}
    for index, seen in enumerate(family.spied(model, monkeypatch, **same_length)):
        key = torch.arange(seen.q.shape[2])
        first = 2 if family.text_first else tiny.TOKENS + 2
        last = 6 if family.text_first else tiny.TOKENS + 6
        where = chosen(seen, [0, 3], branch=0) & (index % LAYERS == 1)
        hidden = where[:, :, None, None] & (key >= first) & (key < last)
        case = dense(seen)
        assert_as_good_as_torch(seen.out, Case(case.q, case.k, case.v, case.wish, ~hidden))


@pytest.mark.column("edits equal dense float64")
@each_joint_family
def test_hiding_no_word_changes_no_bit(family: Family) -> None:
    model, words = family.make(), {"positive": family.prompt(1), "negative": family.prompt(2)}
    plain = family.sample(model, **words)
    assert torch.equal(family.sample(tiny.edited(model, HideText(6)), **words), plain)
    assert not torch.equal(family.sample(tiny.edited(model, HideText(5)), **words), plain)


def test_text_cannot_be_hidden_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="of Wan holds video only; remove the features instead"):
        WAN.sample(tiny.edited(WAN.make(), HideText(1)))


@pytest.mark.column("text span right")
def test_first_tokens_alone_are_another_prompt(family: Family, model: ModelPatcher) -> None:
    """The features of the others are gone: what they were makes no difference."""
    one, other = family.prompt(1), family.prompt(3)
    one[0][0][:, 0] = other[0][0][:, 0]
    one[0][1] |= {key: x for key, x in other[0][1].items() if key == "pooled_output"}
    first, second = (family.sample(model, positive=first_tokens(p, 1)) for p in (one, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, family.sample(model, positive=one))
