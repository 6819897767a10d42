"""Wan's variants, through ComfyUI's sampler and with their own inputs given: sites, grid, edits.

They are rows of the table of families. VACE's blocks, cross-attentions to faces, audio and music,
and tokens beside the video must shift no label.
"""

from __future__ import annotations

from typing import Any

import comfy.sample
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.families import Seen
from vdit_attention.tests.nodes.tiny import HEADS
from vdit_attention.tests.nodes.wan_variants import VARIANTS, Variant
from vdit_attention.tests.oracle import Case, assert_as_good_as_torch, no_wish
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.host.comfy import layout_of


@pytest.fixture(params=VARIANTS, ids=lambda family: family.name, scope="module")
def family(request: pytest.FixtureRequest) -> Variant:
    return request.param


@pytest.fixture(scope="module")
def model(family: Variant) -> ModelPatcher:
    return family.make()


def dense(seen: Seen) -> Case:
    return Case(seen.q, seen.k, seen.v, no_wish(len(seen.q), HEADS))


@pytest.mark.column("sites found")
def test_the_layers_are_the_blocks_that_hold_the_video(
    family: Variant, model: ModelPatcher
) -> None:
    sites = [site for site in layout_of(model).sites if site.kind != "cross"]
    assert [site.name for site in sites] == [f"blocks.{n}.self_attn" for n in range(family.layers)]
    assert {site.heads for site in sites} == {HEADS}


@pytest.mark.column("sites found")
def test_a_record_holds_what_went_past_layer_by_layer(
    family: Variant, model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, record = tiny.watched(model)
    calls = family.spied(watched, monkeypatch)
    assert len(calls) >= 2 * family.layers
    found = iter(record.data.measurements)
    for index, seen in enumerate(calls):
        for row, maps in enumerate(dense(seen).true_maps()):
            m = next(found)
            assert m.layer == index % family.layers
            assert m.branch == ("cond", "uncond")[seen.chunks[row]]
            entropy = torch.special.entr(maps).sum(-1).mean(-1)
            torch.testing.assert_close(m.measures.entropy.double(), entropy, rtol=1e-4, atol=1e-5)
    assert next(found, None) is None


@pytest.mark.column("grid right")
@pytest.mark.parametrize("place", [(1, 0, 0), (2, 1, 4), (1, 4, 6)], ids=str)
def test_a_change_in_one_place_of_the_video_moves_that_token(
    place: tuple[int, int, int],
    family: Variant,
    model: ModelPatcher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame, row, col = place
    before = family.spied(model, monkeypatch, steps=1)[0]
    _, high, wide = family.patch
    noise: Any = comfy.sample.prepare_noise(family.latent()["samples"], 1)
    noise[:, :, frame, row * high : (row + 1) * high, col * wide : (col + 1) * wide] = 9
    monkeypatch.setattr(comfy.sample, "prepare_noise", lambda *_: noise)
    after = family.spied(model, monkeypatch, steps=1)[0]
    moved = (before.v != after.v).any(-1).any(1)[0].nonzero()[:, 0]
    watched, record = tiny.watched(model)
    family.sample(watched, steps=1)
    grid = record.data.header.grid
    assert moved.tolist() == [int(grid.ravel(*map(torch.tensor, place)))]
    assert grid == TokenGrid(*family.grid, family.prefix, family.suffix)


@pytest.mark.column("edits equal dense float64")
def test_an_edit_is_as_exact_as_plain_torch_in_every_layer(
    family: Variant, model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = family.spied(tiny.edited(model, Temperature(0.4), heads="0,2"), monkeypatch)
    assert calls
    for seen in calls:
        case = dense(seen)
        case.wish.temperature[:, [0, 2]] = 0.4
        assert_as_good_as_torch(seen.out, case)


@pytest.mark.column("bypass bit-identical")
def test_neutral_nodes_and_captures_change_no_bit(family: Variant, model: ModelPatcher) -> None:
    plain = family.sample(model)
    assert torch.isfinite(plain).all()
    assert torch.equal(family.sample(tiny.edited(model, Temperature(1.0))), plain)
    assert torch.equal(family.sample(tiny.watched(model)[0]), plain)
    assert not torch.equal(family.sample(tiny.edited(model, Temperature(0.5))), plain)
    assert torch.equal(family.sample(model), plain)
