"""Edits whose heads a sampling chooses itself: which, when they act, and what is refused."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import comfy.ldm.wan.model
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.nodes.edit import VDiTPerturb
from vdit_attention.nodes.enhance import VDiTEntropyEnhance, VDiTEntropyTransfer
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.entropies import (
    dense_map,
    heads_of,
    highest,
    layers_of,
    levels,
    lowest,
    run,
    shares,
)
from vdit_attention.tests.nodes.families import HUNYUAN_VIDEO, LAYERS
from vdit_attention.vdit_core.host import comfy as host
from vdit_attention.vdit_core.pairs import pair_latent, pair_prompts
from vdit_attention.vdit_core.program import Edit
from vdit_attention.vdit_core.record import Record

ENHANCE: dict[str, Any] = {
    "share": 0.34,
    "strength": 0.4,
    "mode": "mix",
    "selection": "measured now",
    "granularity": "layers",
    "region": "video→video",
    "start_percent": 0.0,
    "end_percent": 1.0,
    "branch": "both",
}
TRANSFER: dict[str, Any] = {k: v for k, v in ENHANCE.items() if k != "mode"} | {
    "which": "low",
    "strength": 1.0,
    "region": "all",
}
PAIR: dict[str, Any] = {
    "positive": pair_prompts(tiny.prompt(1), tiny.prompt(3)),
    "latent": pair_latent(tiny.empty_latent()),
}
ROWS = {"cond": (0,), "uncond": (1,), "both": (0, 1)}  # numbers of the chunks of a batch


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.tiny_wan()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nodes say."""
    said: list[str] = []
    monkeypatch.setattr(host, "tell", lambda asker, text: said.append(text))
    return said


def enhanced(model: ModelPatcher, **asked: Any) -> ModelPatcher:
    return run(VDiTEntropyEnhance, model=model, **(ENHANCE | asked))[0]


def transferring(model: ModelPatcher, **asked: Any) -> ModelPatcher:
    return run(VDiTEntropyTransfer, model=model, **(TRANSFER | asked))[0]


def calls(model: ModelPatcher, monkeypatch: pytest.MonkeyPatch, **how: Any) -> list[tiny.Seen]:
    spy = tiny.Spy(comfy.ldm.wan.model.optimized_attention)
    with monkeypatch.context() as patch:
        patch.setattr(comfy.ldm.wan.model, "optimized_attention", spy)
        tiny.sample(model, **how)
    return [seen for seen in spy.seen if not seen.cross]


def rows_of(seen: tiny.Seen, branch: str, items: tuple[int, ...]) -> list[int]:
    """Rows of the batch that belong to a branch and to some of its videos."""
    return [
        chunk * seen.items + item
        for chunk, number in enumerate(seen.chunks)
        if number in ROWS[branch]
        for item in items
    ]


def measured(
    seen: list[tiny.Seen], steps: int, branch: str, items: tuple[int, ...]
) -> dict[tuple[int, int], float]:
    """Entropy of each head in the first steps, from dense maps."""
    first = levels(seen)[:steps]
    found: dict[int, list[Tensor]] = defaultdict(list)
    for call in seen:
        if call.sigma in first:
            for row in rows_of(call, branch, items):
                found[call.layer].append(shares(dense_map(call.q[row], call.k[row]), tiny.TOKENS))
    return heads_of(found)


def mixed(call: tiny.Seen, weight: float) -> Tensor:
    plain = dense_map(call.q, call.k) @ call.v.double()
    return (1 - weight) * plain + weight * call.v.double().mean(2, keepdim=True)


@pytest.mark.parametrize("branch", ["both", "cond", "uncond"])
@pytest.mark.parametrize(("granularity", "share"), [("layers", 0.67), ("heads", 0.25)])
def test_the_widest_of_the_first_steps_are_mixed_in_the_later_ones(
    model: ModelPatcher,
    monkeypatch: pytest.MonkeyPatch,
    branch: str,
    granularity: str,
    share: float,
) -> None:
    how: dict[str, Any] = {"steps": 4, "latent": tiny.empty_latent(2)}
    how["positive"] = tiny.prompt(1, batch=2)
    changed = enhanced(model, share=share, granularity=granularity, branch=branch, first_steps=2)
    seen = calls(changed, monkeypatch, **how)
    numbers = measured(seen, 2, branch, (0, 1))
    if granularity == "layers":
        layers = highest(layers_of(numbers), 2)
        chosen = {(layer, head) for layer in layers for head in range(tiny.HEADS)}
    else:
        chosen = highest(numbers, 3)
    assert len(levels(seen)) == 4 and len(seen) == 4 * tiny.LAYERS
    for call in seen:
        expected, ours = mixed(call, 0.0), mixed(call, 0.4)
        heads = [head for layer, head in chosen if layer == call.layer]
        if call.sigma not in levels(seen)[:2]:
            for row in rows_of(call, branch, (0, 1)):
                expected[row, heads] = ours[row, heads]
        torch.testing.assert_close(call.out.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("which", "count"), [("low", 1), ("high", 1), ("all", 3)])
def test_a_transfer_follows_the_source_where_the_sources_maps_say(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch, which: str, count: int
) -> None:
    seen = calls(transferring(model, which=which), monkeypatch, steps=3, **PAIR)
    ranked = layers_of(measured(seen, 1, "both", (0,)))
    targets = layers_of(measured(seen, 1, "both", (1,)))
    chosen = (highest if which == "high" else lowest)(ranked, count)
    assert which == "all" or ranked != targets
    for call in seen:
        expected = dense_map(call.q, call.k) @ call.v.double()
        if call.layer in chosen and call.sigma < levels(seen)[0]:
            follow = dense_map(call.q[::2], call.k[::2]) @ call.v[1::2].double()
            expected[1::2] = follow
        torch.testing.assert_close(call.out.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_record_chooses_the_same_and_acts_at_once(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, record = tiny.watched(model, steps="0")
    plain = calls(watched, monkeypatch, steps=3)
    (layer,) = highest(layers_of(measured(plain, 1, "both", (0,))), 1)
    changed = enhanced(model, selection="from record", record=record)
    for call in calls(changed, monkeypatch, steps=3):
        expected = mixed(call, 0.4 if call.layer == layer else 0.0)
        torch.testing.assert_close(call.out.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_record_is_as_good_as_naming_its_layers(model: ModelPatcher) -> None:
    watched, record = tiny.watched(model)
    latent = {"samples": tiny.sample(watched)}
    changed = enhanced(
        model, selection="from record", record=record, latent=latent, granularity="heads", share=0.5
    )
    shared = {(m.layer, head): 0.0 for m in record.data.measurements for head in m.heads}
    for m in record.data.measurements:
        for head, value in zip(m.heads, m.measures.entropy.tolist(), strict=True):
            shared[m.layer, head] += value
    heads: dict[int, list[int]] = defaultdict(list)
    for layer, head in sorted(highest(shared, 6)):
        heads[layer].append(head)
    named = model
    for layer, own in heads.items():
        asked: dict[str, Any] = {"map": "uniform", "strength": 0.4, "layers": str(layer)}
        asked |= {"heads": ",".join(map(str, own)), "start_percent": 0.0, "end_percent": 1.0}
        named = run(VDiTPerturb, model=named, branch="both", **asked)[0]
    assert torch.equal(tiny.sample(changed), tiny.sample(named))


@pytest.mark.parametrize("asked", [{"strength": 0.0}, {"share": 0.0}])
@pytest.mark.parametrize("selection", ["measured now", "from record"])
def test_neutral_settings_change_no_bit(
    model: ModelPatcher, asked: dict[str, Any], selection: str
) -> None:
    plain = tiny.sample(model, steps=3)
    assert torch.equal(tiny.sample(enhanced(model, selection=selection, **asked), steps=3), plain)
    pair = tiny.sample(model, steps=3, **PAIR)
    same = tiny.sample(transferring(model, selection=selection, **asked), steps=3, **PAIR)
    assert torch.equal(same, pair)
    assert not torch.equal(tiny.sample(enhanced(model), steps=3), plain)
    assert not torch.equal(tiny.sample(transferring(model), steps=3, **PAIR), pair)


def test_a_second_sampling_chooses_by_itself(model: ModelPatcher) -> None:
    changed = enhanced(model, granularity="heads", share=0.25)
    first = tiny.sample(changed, steps=3, seed=1)
    tiny.sample(changed, steps=3, seed=2)
    assert torch.equal(tiny.sample(changed, steps=3, seed=1), first)


def test_two_nodes_agree_and_say_so(model: ModelPatcher, lines: list[str]) -> None:
    twice = enhanced(enhanced(model), strength=0.2)
    may = "in layers 0, 1, 2, where the sampling chooses them for both"
    assert lines == [
        f"overruled {may}: a later node sets map",
        f"overrules an earlier node's map {may}",
    ]
    lines.clear()
    once = tiny.sample(enhanced(model, strength=0.2), steps=3)
    assert torch.equal(tiny.sample(twice, steps=3), once)
    told = [line.split("\n")[1] for line in lines]
    assert len(told) == 3 and len(set(told)) == 1


def test_the_node_says_what_it_chose(
    model: ModelPatcher, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = calls(enhanced(model), monkeypatch, steps=3)
    numbers = layers_of(measured(seen, 1, "both", (0,)))
    (layer,) = highest(numbers, 1)
    others = [n for n in numbers if n != layer]
    listed = ", ".join(f"{n} ({numbers[n]:.3f})" for n in others)
    assert lines[-1] == (
        "changed 2 calls of 1 layers\nhigh normalised entropy on the first step: layers "
        f"{layer} ({numbers[layer]:.3f}); not {listed}"
    )


def test_what_cannot_be_is_refused_before_sampling(model: ModelPatcher) -> None:
    with pytest.raises(ValueError, match="first_steps is 3, but this sampler has 3 steps"):
        tiny.sample(enhanced(model, first_steps=3), steps=3)
    with pytest.raises(ValueError, match="of the steps after the first 2, which are measured"):
        tiny.sample(enhanced(model, first_steps=2, end_percent=0.1), steps=6)
    with pytest.raises(ValueError, match="selection from record needs one"):
        enhanced(model, selection="from record")
    with pytest.raises(ValueError, match="nothing has been captured yet"):
        enhanced(model, selection="from record", record=Record())
    with pytest.raises(ValueError, match=r"share: got 1\.5"):
        enhanced(model, share=1.5)
    with pytest.raises(ValueError, match=r"strength: got 1\.2, allowed is 0 to 1"):
        enhanced(model, strength=1.2)
    with pytest.raises(ValueError, match="it needs a batch of pairs"):
        tiny.sample(transferring(model), steps=3)


def test_a_record_of_some_heads_ranks_these_and_acts_on_whole_layers(model: ModelPatcher) -> None:
    watched, record = tiny.watched(model, layers="0,2", heads="1-2", steps="0")
    tiny.sample(watched)
    means = {m.layer: 0.0 for m in record.data.measurements}
    for m in record.data.measurements:
        means[m.layer] += float(m.measures.entropy.mean())
    (layer,) = highest(means, 1)
    changed = enhanced(model, selection="from record", record=record, share=0.5)
    (edit,) = host.program_of(changed)
    assert isinstance(edit, Edit)
    assert edit.where.text == f"{layer}:*"
    assert edit.remark.startswith("high normalised entropy in the record, which holds layers 0, 2:")


def test_the_record_of_another_model_is_refused(model: ModelPatcher) -> None:
    watched, record = tiny.watched(tiny.tiny_wan(num_layers=2))
    tiny.sample(watched)
    with pytest.raises(ValueError, match="Wan with 2 layers of 4 heads, but this model is"):
        enhanced(model, selection="from record", record=record)


def test_the_padding_of_a_pairs_source_is_no_key(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source's 4 tokens of text are padded to the target's 9, in front of the video."""
    changed = transferring(HUNYUAN_VIDEO.make(), branch="cond")
    pair = pair_prompts(HUNYUAN_VIDEO.prompt(1, 4), HUNYUAN_VIDEO.prompt(3, 9))
    how: dict[str, Any] = {"latent": pair_latent(HUNYUAN_VIDEO.latent()), "cfg": 1.0, "steps": 2}
    seen = HUNYUAN_VIDEO.spied(changed, monkeypatch, positive=pair, **how)
    told = dict(re.findall(r"(\d) \((0\.\d+)\)", lines[-1]))
    assert sorted(told) == [str(n) for n in range(LAYERS)]
    for layer, call in enumerate(seen[:LAYERS]):
        keys = torch.cat([call.k[0, :, :4], call.k[0, :, 9:]], 1)
        expected = shares(dense_map(call.q[0], keys), keys.shape[1]).mean()
        assert float(told[str(layer)]) == pytest.approx(float(expected), abs=6e-4)


def test_a_branch_that_is_never_called_is_an_error(model: ModelPatcher) -> None:
    with pytest.raises(RuntimeError, match="this node wants branch 'uncond'"):
        tiny.sample(enhanced(model, branch="uncond"), steps=3, cfg=1.0)
