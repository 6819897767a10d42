"""Who a call is for: regions with prompts of their own, guiders with calls of their own.

Which prompt a row was given is told from outside, by the keys of its cross-attention, which depend
on nothing but the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.ldm.modules.attention as core
import comfy.ldm.wan.model
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import node_helpers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.test_labels import entropies, planted
from vdit_attention.tests.oracle import Case, assert_as_good_as_torch, no_wish
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.figures import attention_map
from vdit_attention.vdit_core.figures.legend import moment_text
from vdit_attention.vdit_core.figures.origin import check_origin
from vdit_attention.vdit_core.figures.panels import choose_calls
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.record import RecordData
from vdit_attention.vdit_core.selection import parse_selection

ROWS, COLS = tiny.ROWS, tiny.COLS


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return planted()


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> tiny.Spy:
    spy = tiny.Spy(core.attention_pytorch)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", spy)
    return spy


def with_values(seed: int, **values: Any) -> tiny.Conditioning:
    """A prompt as the nodes Conditioning (Set Area), (Set Mask) and Set Timestep Range make it."""
    return node_helpers.conditioning_set_values(tiny.prompt(seed), values)


def half(left: bool) -> Tensor:
    mask = torch.zeros(1, ROWS, COLS)
    mask[..., :3] = left
    mask[..., 3:] = not left
    return mask


def text_keys(model: ModelPatcher, spy: tiny.Spy, seed: int) -> Tensor:
    """Keys of the first cross-attention to this prompt."""
    start = len(spy.seen)
    tiny.sample(model, positive=tiny.prompt(seed), cfg=1.0, steps=1)
    keys = next(seen.k for seen in spy.seen[start:] if seen.cross)
    del spy.seen[start:]
    return keys[0]


def told_apart(spy: tiny.Spy, keys: dict[int, Tensor]) -> Iterator[tuple[tiny.Seen, list[int]]]:
    """Each self-attention call, and the prompt's seed of each of its rows."""
    calls, of_block = [s for s in spy.seen if not s.cross], [s for s in spy.seen if s.cross]
    for own, cross in zip(calls, of_block, strict=True):
        first = next(c for c in reversed(of_block[: of_block.index(cross) + 1]) if c.layer == 0)
        found = [
            [seed for seed, wanted in keys.items() if torch.allclose(k, wanted, atol=1e-4)]
            for k in first.k
        ]
        assert all(len(seeds) == 1 for seeds in found)
        yield own, [seed for (seed,) in found]


# positive and negative, and the prompt and the grid of each label
Regions = tuple[tiny.Conditioning, tiny.Conditioning, dict[tuple[str, int], tuple[int, TokenGrid]]]
REGIONS: dict[str, Regions] = {
    "masks": (
        with_values(1, mask=half(True)) + with_values(3, mask=half(False)),
        tiny.prompt(2),
        {
            ("cond", 0): (1, TokenGrid(3, ROWS, COLS)),
            ("cond", 1): (3, TokenGrid(3, ROWS, COLS)),
            ("uncond", 0): (2, TokenGrid(3, ROWS, COLS)),
        },
    ),
    "areas": (  # ComfyUI then asks for the negative prompt in the area as well
        tiny.prompt(1) + with_values(3, area=(2, 5, 1, 2)),
        tiny.prompt(2),
        {
            ("cond", 0): (1, TokenGrid(3, ROWS, COLS)),
            ("cond", 1): (3, TokenGrid(3, 2, 5)),
            ("uncond", 0): (2, TokenGrid(3, ROWS, COLS)),
            ("uncond", 1): (2, TokenGrid(3, 2, 5)),
        },
    ),
    "areas alone": (
        with_values(3, area=(2, 5, 1, 2)) + with_values(1, area=(3, 5, 0, 0)),
        tiny.prompt(2),
        {
            ("cond", 0): (3, TokenGrid(3, 2, 5)),
            ("cond", 1): (1, TokenGrid(3, 3, 5)),
            ("uncond", 0): (2, TokenGrid(3, ROWS, COLS)),
            ("uncond", 1): (2, TokenGrid(3, 2, 5)),
            ("uncond", 2): (2, TokenGrid(3, 3, 5)),
        },
    ),
    "an area of the negative prompt": (
        tiny.prompt(1),
        with_values(2, area=(2, 5, 1, 2)),
        {
            ("cond", 0): (1, TokenGrid(3, ROWS, COLS)),
            ("cond", 1): (1, TokenGrid(3, 2, 5)),
            ("uncond", 0): (2, TokenGrid(3, 2, 5)),
        },
    ),
}


@pytest.mark.parametrize("name", REGIONS)
def test_the_prompts_of_a_branch_have_labels_of_their_own(
    name: str, model: ModelPatcher, spy: tiny.Spy
) -> None:
    positive, negative, expected = REGIONS[name]
    keys = {seed: text_keys(model, spy, seed) for seed in (1, 2, 3)}
    watched, record = tiny.watched(model)
    tiny.sample(watched, positive=positive, negative=negative)
    found = iter(record.data.measurements)
    labels: set[tuple[Any, ...]] = set()
    for own, seeds in told_apart(spy, keys):
        for row, entropy in enumerate(entropies(own)):
            m = next(found)
            seed, grid = expected[m.branch, m.prompt]
            assert (m.layer, m.sigma, m.evaluation) == (own.layer, own.sigma, 0)
            assert (seeds[row], record.data.header_of(m).grid) == (seed, grid)
            torch.testing.assert_close(m.measures.entropy.double(), entropy, rtol=1e-4, atol=1e-5)
            labels.add((m.layer, m.step, m.branch, m.prompt))
    assert next(found, None) is None
    check_origin(record.data, tiny.empty_latent()["samples"])
    assert len(labels) == len(record.data.measurements) == len(expected) * 2 * tiny.LAYERS


@pytest.mark.parametrize("name", REGIONS)
def test_an_edit_of_cond_changes_every_prompt_of_it(
    name: str, model: ModelPatcher, spy: tiny.Spy
) -> None:
    positive, negative, _ = REGIONS[name]
    keys = {seed: text_keys(model, spy, seed) for seed in (1, 2, 3)}
    changed = tiny.edited(model, Perturb("identity", 1.0), branch="cond")
    tiny.sample(changed, positive=positive, negative=negative)
    for own, seeds in told_apart(spy, keys):
        for row, seed in enumerate(seeds):
            same = torch.equal(own.out[row], own.v[row])
            assert same == (seed in (1, 3))


def regional(model: ModelPatcher) -> RecordData:
    watched, record = tiny.watched(model)
    tiny.sample(watched, positive=REGIONS["masks"][0])
    return record.data


def test_a_reader_shows_one_prompt_in_all_layers_and_says_which(model: ModelPatcher) -> None:
    data, everything = regional(model), parse_selection("all", "layers")
    moment, shown = choose_calls(data, everything, parse_selection("1", "steps"), "cond", 0)
    assert [(m.layer, m.prompt) for m in shown] == [(0, 0), (1, 0), (2, 0)]
    assert moment_text(data.header, moment).split(" · ")[1:3] == ["cond", "prompt 0 (of 0 to 1)"]
    moment, _ = choose_calls(data, everything, parse_selection("1", "steps"), "uncond", 0)
    assert "prompt" not in moment_text(data.header, moment)
    image = attention_map(
        data,
        layers=everything,
        head="mean",
        step=parse_selection("1", "steps"),
        branch="cond",
        scale="log",
    )
    assert image.shape[-1] == 3


def test_prompts_with_times_of_their_own_keep_their_numbers(model: ModelPatcher) -> None:
    """ConditioningSetTimestepRange: prompt 0 in the first half, prompt 1 in the second."""
    positive = with_values(1, start_percent=0.0, end_percent=0.5)
    positive += with_values(3, start_percent=0.5, end_percent=1.0)
    watched, record = tiny.watched(model, branch="cond")
    tiny.sample(watched, positive=positive, steps=5)
    at = {(m.step, m.prompt) for m in record.data.measurements}
    sampling: Any = model.get_model_object("model_sampling")
    middle = sampling.percent_to_sigma(0.5)
    sigmas = record.data.header.sigmas[:-1]
    expected = {(n, 0) for n, s in enumerate(sigmas) if s >= middle}
    expected |= {(n, 1) for n, s in enumerate(sigmas) if s <= middle}
    assert at == expected
    assert {prompt for _, prompt in at} == {0, 1}


def keys_of(data: RecordData) -> list[tuple[Any, ...]]:
    return [(m.layer, m.step, m.evaluation, m.branch, m.prompt, m.item) for m in data.measurements]


def test_skip_layer_guidance_is_a_second_evaluation_of_cond(
    model: ModelPatcher, spy: tiny.Spy
) -> None:
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    guided: ModelPatcher = SkipLayerGuidanceDiT.execute(model, 3.0, 0.0, 1.0, "1", "").args[0]
    watched, record = tiny.watched(guided)
    tiny.sample(watched)
    keys = keys_of(record.data)
    assert len(set(keys)) == len(keys)
    assert [k[:4] for k in keys[:8]] == [
        *((layer, 0, 0, branch) for layer in range(3) for branch in ("uncond", "cond")),
        *((layer, 0, 1, "cond") for layer in (0, 2)),
    ]
    truth = [row for seen in spy.seen if not seen.cross for row in entropies(seen)]
    for m, entropy in zip(record.data.measurements, truth, strict=True):
        torch.testing.assert_close(m.measures.entropy.double(), entropy, rtol=1e-4, atol=1e-5)


def test_skip_layer_guidance_on_uncond_alone_keeps_the_branches(
    model: ModelPatcher, spy: tiny.Spy
) -> None:
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiTSimple

    guided: ModelPatcher = SkipLayerGuidanceDiTSimple.execute(model, 0.0, 1.0, "1", "").args[0]
    watched, record = tiny.watched(guided)
    tiny.sample(watched)
    keys = [k[:4] for k in keys_of(record.data)[:5]]
    assert keys == [(n, 0, 0, "cond") for n in range(3)] + [(n, 0, 0, "uncond") for n in (0, 2)]


def test_perp_neg_names_its_third_conditioning(model: ModelPatcher) -> None:
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    watched, record = tiny.watched(tiny.edited(model, Temperature(0.5), branch="uncond"))
    guider: Any = Guider_PerpNeg(watched)
    guider.set_conds(tiny.prompt(1), tiny.prompt(2), tiny.prompt(3))
    guider.set_cfg(3.0, 1.0)
    sampled(guider)
    assert {m.branch for m in record.data.measurements} == {
        "cond",
        "uncond",
        "empty_negative_prompt",
    }
    assert len(set(keys_of(record.data))) == len(record.data.measurements)


def test_a_conditioning_that_is_none_of_the_guiders_is_called_other(
    model: ModelPatcher, spy: tiny.Spy
) -> None:
    """The older Perp-Neg node asks the model about a prompt of its own; edits of cond spare it."""
    from comfy_extras.nodes_perpneg import PerpNeg

    keys = {seed: text_keys(model, spy, seed) for seed in (1, 2, 3)}
    guided: ModelPatcher = PerpNeg.execute(model, tiny.prompt(3), 1.0).args[0]
    changed = tiny.edited(guided, Perturb("identity", 1.0), branch="cond")
    watched, record = tiny.watched(changed)
    tiny.sample(watched)
    assert {m.branch for m in record.data.measurements} == {"cond", "uncond", "other"}
    for own, seeds in told_apart(spy, keys):
        assert [torch.equal(o, v) for o, v in zip(own.out, own.v, strict=True)] == [
            seed == 1 for seed in seeds
        ]


def test_branches_are_known_where_another_node_goes_round_our_wrapper(model: ModelPatcher) -> None:
    def batch(args: dict[str, Any]) -> list[Tensor]:
        options = comfy.model_patcher.create_model_options_clone(args["model_options"])
        kind = comfy.patcher_extension.WrappersMP.CALC_COND_BATCH
        del options["transformer_options"]["wrappers"][kind]
        return comfy.samplers.calc_cond_batch(
            args["model"], args["conds"], args["input"], args["sigma"], options
        )

    around = model.clone()
    around.set_model_sampler_calc_cond_batch_function(batch)
    (watched, record), (plain, expected) = tiny.watched(around), tiny.watched(model)
    tiny.sample(watched)
    tiny.sample(plain)
    assert keys_of(record.data) == keys_of(expected.data)


def test_cond_alone_is_edited_exactly(model: ModelPatcher, spy: tiny.Spy) -> None:
    """A guider without a negative prompt (Basic Guider)."""
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    watched, record = tiny.watched(tiny.edited(model, Temperature(0.5), heads="1"))
    guider: Any = Guider_Basic(watched)
    guider.set_conds(tiny.prompt(1))
    sampled(guider, batch=2)
    assert {(m.branch, m.item) for m in record.data.measurements} == {("cond", 0), ("cond", 1)}
    for seen in (s for s in spy.seen if not s.cross):
        wish = no_wish(2, tiny.HEADS)
        wish.temperature[:, 1] = 0.5
        assert_as_good_as_torch(seen.out, Case(seen.q, seen.k, seen.v, wish))


def sampled(guider: Any, batch: int = 1) -> None:
    latent = tiny.empty_latent(batch)["samples"]
    sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.5, 0.0])
    guider.sample(torch.randn_like(latent), latent, sampler, sigmas, disable_pbar=True, seed=1)
