"""Every family and every variant of Wan, through ComfyUI's sampler: sites, grid, no trace.

Each test is a column of the table that ends a test run (see tests/conftest.py). VACE's blocks,
cross-attentions to faces, audio and music, and tokens beside the video must shift no label.
"""

from __future__ import annotations

from typing import Any

import comfy.sample
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.families import FAMILIES, JOINT, Family, dense
from vdit_attention.tests.nodes.tiny import HEADS
from vdit_attention.tests.nodes.wan_variants import VARIANTS, or_skipped
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.host.comfy import layout_of


@pytest.fixture(params=(*FAMILIES, *VARIANTS), ids=lambda family: family.name, scope="module")
def family(request: pytest.FixtureRequest) -> Family:
    return or_skipped(request.param)


@pytest.fixture(scope="module")
def model(family: Family) -> ModelPatcher:
    return family.make()


@pytest.mark.column("sites found")
def test_sites_are_named_like_their_modules_and_counted_over_the_model(
    family: Family, model: ModelPatcher
) -> None:
    sites = [site for site in layout_of(model).sites if site.kind != "cross"]
    assert [site.name for site in sites] == [*family.sites]
    assert [site.layer for site in sites] == [*range(len(family.sites))]
    assert {site.heads for site in sites} == {HEADS}
    modules = dict(model.model.diffusion_model.named_modules())
    owners = {
        site.name: owner for owner, found in layout_of(model).owners.items() for site in found
    }
    # a second attention inside of a module, to the words of an image, has a name of its own
    assert all(modules[name.removesuffix(".image")] is owner for name, owner in owners.items())


@pytest.mark.column("sites found")
def test_a_record_holds_what_went_past_layer_by_layer(
    family: Family, model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, record = tiny.watched(model)
    calls = family.spied(watched, monkeypatch)
    assert len(calls) >= 2 * len(family.sites)
    found = iter(record.data.measurements)
    for index, seen in enumerate(calls):
        maps, layer = dense(seen).true_maps(), index % len(family.sites)
        for row in range(len(seen.q)):
            m = next(found)
            assert (m.site, m.layer) == (family.sites[layer], layer)
            assert m.branch == ("cond", "uncond")[seen.chunks[row]]
            assert m.sigma == pytest.approx(seen.sigma)
            entropy = torch.special.entr(maps[row]).sum(-1).mean(-1)
            torch.testing.assert_close(m.measures.entropy.double(), entropy, rtol=1e-4, atol=1e-5)
    assert next(found, None) is None


@pytest.mark.column("grid right")
@pytest.mark.parametrize("place", [(0, 0, 0), (2, 1, 4), (1, 4, 6)], ids=str)
def test_a_change_in_one_place_of_the_video_moves_that_token(
    place: tuple[int, int, int],
    family: Family,
    model: ModelPatcher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame, row, col = max(place[0], family.sampled_from), *place[1:]
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
    assert moved.tolist() == [int(grid.ravel(*map(torch.tensor, (frame, row, col))))]
    assert (grid.frames, grid.rows, grid.cols) == family.grid
    if family not in JOINT:  # where the text is, is told by its own tests
        assert grid == TokenGrid(*family.grid, family.prefix, family.suffix)


@pytest.mark.column("bypass bit-identical")
def test_neutral_nodes_and_captures_change_no_bit(family: Family, model: ModelPatcher) -> None:
    plain = family.sample(model)
    assert torch.isfinite(plain).all()
    assert torch.equal(family.sample(tiny.edited(model, Temperature(1.0))), plain)
    assert torch.equal(family.sample(tiny.edited(model, Temperature(0.5), "none")), plain)
    assert torch.equal(family.sample(tiny.watched(model)[0]), plain)
    edited = tiny.edited(model, Temperature(0.5))
    first = family.sample(edited)
    assert not torch.equal(first, plain)
    assert torch.equal(family.sample(edited), first)
    assert torch.equal(family.sample(model), plain)
