"""Real footage as the source of a pair, through ComfyUI's own sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.ldm.modules.attention as core
import comfy.ldm.wan.model
import comfy.sample
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.families import FAMILIES, LAYERS, VIDEO, Family
from vdit_attention.tests.nodes.footage import BOTH, mask, node, video
from vdit_attention.vdit_core.edits.footage import FollowFootage
from vdit_attention.vdit_core.edits.sparsity import Sparsify
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.footage import Footage
from vdit_attention.vdit_core.host.footage import frames_each
from vdit_attention.vdit_core.pairs import pair_latent, pair_prompts


def sampled(model: ModelPatcher, latent: Tensor | None = None, **settings: Any) -> Tensor:
    how = {k: settings.pop(k) for k in ("sampler", "steps", "callback", "cfg") if k in settings}
    patched, pair = node(model, latent, **settings)
    return tiny.sample(patched, positive=BOTH, latent=pair, **how)


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.tiny_wan()


@dataclass
class Given:
    """What the model was given in one evaluation. x: [B, C, F, H, W]."""

    x: Tensor
    sigma: float
    chunks: list[int]


def listening(model: ModelPatcher) -> tuple[ModelPatcher, list[Given]]:
    """A model that notes its inputs, as another pack's wrapper would see them."""
    heard: list[Given] = []

    def wrapper(apply: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        x, sigma = args["input"], float(args["timestep"][0])
        heard.append(Given(x.double().clone(), sigma, args["cond_or_uncond"]))
        return apply(x, args["timestep"], **args["c"])

    listener = model.clone()
    listener.set_model_unet_function_wrapper(wrapper)
    return listener, heard


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_sde", "uni_pc"])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_model_sees_the_footage_with_the_first_noise_at_every_evaluation(
    model: ModelPatcher, sampler: str, batch: int
) -> None:
    listener, heard = listening(model)
    latent = video(batch)
    patched, pair = node(listener, latent, layers="1", strength=0.5)
    out = tiny.sample(patched, positive=BOTH, latent=pair, sampler=sampler, steps=3, seed=4)
    noise: Any = comfy.sample.prepare_noise(latent, 4)
    clean = model.model.latent_format
    mean, std = clean.latents_mean.double(), clean.latents_std.double()
    footage = (latent.double() - mean) / std
    assert len(heard) >= 3
    for given in heard:
        assert sorted(given.chunks) == [0, 1]
        wanted = given.sigma * noise.double() + (1 - given.sigma) * footage
        for chunk in given.x.chunk(2):
            torch.testing.assert_close(chunk[0::2], wanted, rtol=1e-5, atol=1e-5)
            assert given.sigma > 0.99 or (chunk[1::2] - wanted).abs().max() > 0.1
    torch.testing.assert_close(out[0::2], latent, rtol=0, atol=2e-2)  # uni_pc solves in part
    assert (out[1::2] - latent).abs().max() > 1


def test_one_footage_serves_several_pairs(model: ModelPatcher) -> None:
    patched, _ = node(model)
    latent = {"samples": torch.zeros(2, *video().shape[1:])}
    out = tiny.sample(patched, positive=BOTH, latent=pair_latent(latent))
    torch.testing.assert_close(out[0::2], video().expand(2, -1, -1, -1, -1))
    assert (out[1] - out[3]).abs().max() > 0.1  # two noises
    alone = tiny.sample(
        patched, positive=BOTH, latent=pair_latent({"samples": latent["samples"][:1]})
    )
    torch.testing.assert_close(out[1], alone[1], rtol=1e-3, atol=1e-3)


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one row, [H, L, D] in float64."""
    scores = q.double() @ k.double().transpose(1, 2) * q.shape[-1] ** -0.5
    return scores.softmax(-1) @ v.double()


def in_places(drawn: Tensor) -> Tensor:
    """The share of each latent place of a mask of 9 × 10 × 14 that is drawn, written by hand."""
    share = torch.empty(3, 5, 7, dtype=torch.float64)
    for frame, rows in enumerate((slice(0, 1), slice(1, 5), slice(5, 9))):
        for row in range(5):
            for col in range(7):
                cell = drawn[rows, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
                share[frame, row, col] = cell.double().mean()
    return share


@pytest.mark.parametrize("masked", [False, True])
def test_the_targets_output_is_the_formulas(
    model: ModelPatcher, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = tiny.Spy(core.attention_pytorch)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", spy)
    more: dict[str, Any] = {"mask": mask()} if masked else {}
    sampled(model, heads="0,2", schedule="0=0; 1=0.3", branch="cond", **more)
    m = in_places(mask()).flatten()[:, None] if masked else torch.ones(tiny.TOKENS, 1)
    for seen in (s for s in spy.seen if not s.cross):
        strength = (0.0, 0.3, 1.0)[seen.layer]
        for row in range(4):
            target = row % 2 == 1 and seen.chunks[row // 2] == 0
            own = dense(seen.q[row], seen.k[row], seen.v[row])
            source = row - 1 if target else row
            theirs = dense(seen.q[source], seen.k[source], seen.v[row])
            kept = dense(seen.q[source], seen.k[source], seen.v[source])
            expected = m * torch.lerp(own, theirs, strength) + (1 - m) * kept
            if not target:
                expected = own
            expected[[1, 3]] = own[[1, 3]]
            torch.testing.assert_close(seen.out[row].double(), expected, rtol=1e-4, atol=1e-4)


def test_neutral_settings_change_no_bit(model: ModelPatcher) -> None:
    pair = node(model)[1]
    plain = tiny.sample(model, positive=BOTH, latent=pair)
    assert torch.equal(sampled(model, strength=0.0), plain)
    assert torch.equal(sampled(model, schedule="all=0"), plain)
    assert torch.equal(sampled(model, layers="none"), plain)
    full = sampled(model, mask=torch.ones(9, 10, 14))
    assert torch.equal(full, sampled(model))
    assert not torch.equal(full, plain)
    assert torch.equal(sampled(model), sampled(model))  # a second queue


def test_a_mask_holds_the_footage_outside_and_only_where_it_is_wanted(model: ModelPatcher) -> None:
    drawn = torch.zeros(9, 10, 14)
    drawn[:, 2:6, 4:10] = 1
    outside = torch.ones(3, 5, 7, dtype=torch.bool)
    outside[:, 1:3, 2:5] = False
    held = sampled(model, mask=drawn)
    free = sampled(model, mask=drawn, hold_background=False)
    away = [(out[1] - video()[0]).abs()[:, outside].max() for out in (held, free)]
    assert away[0] < 1e-5
    assert away[1] > 0.1
    assert (held[1] - video()[0]).abs()[:, ~outside].max() > 0.5
    alone = sampled(model, mask=drawn, hold_background=False, strength=0.0)
    plain = tiny.sample(model, positive=BOTH, latent=node(model)[1])
    assert not torch.equal(alone, plain)  # the mask acts on its own
    assert (alone[1] - free[1]).abs().max() > 0.1


def test_the_noise_mask_is_the_share_of_each_place(model: ModelPatcher) -> None:
    _, pair = node(model, mask=mask())
    assert pair["batch_index"] == [0, 0]
    torch.testing.assert_close(pair["noise_mask"][0, 0].double(), in_places(mask()))
    assert "noise_mask" not in node(model, mask=mask(), hold_background=False)[1]
    assert "noise_mask" not in node(model)[1]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_in_every_family_the_source_is_the_footage_and_the_text_the_targets(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    patcher = family.make()
    shape = family.latent()["samples"].shape
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    own = torch.zeros(shape[-3:])
    own[:, : shape[-2] // 2] = 1
    edited = tiny.edited(patcher, FollowFootage(Footage(latent, own), (1.0,) * LAYERS), layers="1")
    how = {
        "positive": pair_prompts(family.prompt(1), family.prompt(3)),
        "latent": pair_latent({"samples": latent}),
    }
    out = family.sample(edited, **how)
    torch.testing.assert_close(out[0], latent[0], rtol=1e-3, atol=1e-3)
    calls = family.spied(edited, monkeypatch, **how)
    calls = [seen for n, seen in enumerate(calls) if n % LAYERS == 1 and 0 in seen.chunks]
    assert len(calls) == 2  # one for each step
    for seen in calls:  # with the negative prompt both rows are alike in the first step
        source = 2 * seen.chunks.index(0)
        first = seen.q.shape[2] - VIDEO if family.text_first else 0
        places = torch.arange(first, first + VIDEO).unflatten(0, (3, 5, 7))
        text = [n for n in range(seen.q.shape[2]) if not first <= n < first + VIDEO]
        same = (seen.out[source + 1] == seen.out[source]).all(0).all(-1)
        assert bool(same[places[:, 3:]].all())  # row 2 of the tokens may be drawn in part
        assert not bool(same[places[:, :2]].any())
        assert not bool(same[text].any())


def test_a_latent_frame_is_as_many_video_frames_as_the_family_has_told_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = {"Wan": 4, "Mochi": 6, "HunyuanVideo": 4, "LTX-Video": 8}
    models = {f.name: f.make() for f in FAMILIES if f.name in wanted}
    assert {name: frames_each(model) for name, model in models.items()} == wanted
    for model in models.values():  # as before ComfyUI 0.24
        monkeypatch.setattr(
            type(model.model.latent_format), "temporal_downscale_ratio", 1, raising=False
        )
    assert {name: frames_each(model) for name, model in models.items()} == wanted


def test_with_less_denoise_the_edit_begins_from_the_footage(model: ModelPatcher) -> None:
    listener, heard = listening(model)
    patched, pair = node(listener)
    samples = pair["samples"]
    noise: Any = comfy.sample.prepare_noise(samples, 1, pair["batch_index"])
    with torch.inference_mode():
        comfy.sample.sample(
            patched, noise, 3, 1.0, "euler", "simple", BOTH, tiny.prompt(2), samples, denoise=0.5
        )
    assert heard[0].sigma < 0.99
    torch.testing.assert_close(heard[0].x[0], heard[0].x[1])
    assert (heard[-1].x[0] - heard[-1].x[1]).abs().max() > 0.01


def test_other_edits_and_captures_act_beside_it(model: ModelPatcher) -> None:
    patched, pair = node(model, layers="1", mask=mask())
    transferring = tiny.edited(patched, PairTransfer(1.0), layers="2")
    watched, record = tiny.watched(tiny.edited(transferring, Temperature(0.5)))
    thinned = tiny.edited(watched, Sparsify((0.3,) * 3, "exact"), layers="0-1")
    out = tiny.sample(thinned, positive=BOTH, latent=pair)
    torch.testing.assert_close(out[0], video()[0])
    assert {m.item for m in record.data.measurements} == {0, 1}
    again, _ = node(patched, mask=mask(), layers="2", strength=0.5)
    torch.testing.assert_close(tiny.sample(again, positive=BOTH, latent=pair)[0], video()[0])


def test_a_window_ends_the_transfer_but_not_the_footage(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = tiny.Spy(core.attention_pytorch)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", spy)
    out = sampled(model, end_percent=0.5, steps=6, mask=mask(), hold_background=False)
    torch.testing.assert_close(out[0], video()[0])
    sampling: Any = model.get_model_object("model_sampling")
    ends = sampling.percent_to_sigma(0.5)
    for seen in (s for s in spy.seen if not s.cross and s.sigma < 0.99):
        assert torch.equal(seen.out, seen.plain(spy.function)) == (seen.sigma <= ends)


def test_a_cancelled_sampling_leaves_the_model_as_it_was(model: ModelPatcher) -> None:
    def cancel(step: int, *_: object) -> None:
        raise InterruptProcessingException

    before = tiny.sample(model)
    patched, pair = node(model, mask=mask())
    kept = dict(patched.model_options["transformer_options"])
    with pytest.raises(InterruptProcessingException):
        tiny.sample(patched, positive=BOTH, latent=pair, callback=cancel)
    assert patched.model_options["transformer_options"] == kept
    assert torch.equal(tiny.sample(model), before)
    torch.testing.assert_close(tiny.sample(patched, positive=BOTH, latent=pair)[0], video()[0])
