"""The toy world in ComfyUI: its files load through the stock loaders, encode, sample and decode."""

from __future__ import annotations

import json
import sys
from typing import Any

import comfy.ldm.genmo.joint_model.asymm_models_joint as core_mochi
import comfy.utils
import folder_paths
import pytest
import torch
from vdit_attention.nodes.toy import NODES, VDiTToyWorld
from vdit_attention.vdit_core.host import toy_mochi, toy_networks, toy_world
from vdit_attention.vdit_core.host.toy_sampling import (
    LATENT_SHAPE,
    SamplerSettings,
    decode_clips,
    sample_latents,
)
from vdit_attention.vdit_core.toy.clips import COLOURS
from vdit_attention.vdit_core.toy.config import MOCHI_CONFIG, MOCHI_MLP_WIDTH
from vdit_attention.vdit_core.toy.reading import read
from vdit_attention.vdit_core.toy.text import LENGTH, WORDS, embed, word_vectors

import nodes

PROMPT = "a red circle falling on a striped background"


@pytest.fixture(scope="module")
def world():
    return VDiTToyWorld.execute("wan").result


@pytest.fixture(scope="module")
def mochi():
    return VDiTToyWorld.execute("mochi").result


@pytest.fixture(scope="module", params=["wan", "mochi"])
def variant(request):
    return VDiTToyWorld.execute(request.param).result


@pytest.fixture
def stock_folders(monkeypatch):
    """The stock loaders see the pack's weights."""
    for kind in ("diffusion_models", "vae"):
        entry = ([str(toy_world.WEIGHTS)], {".safetensors"})
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, entry)


def _sample(model, clip, seed: int = 3, steps: int = 2, prompt: str = PROMPT) -> torch.Tensor:
    """What stock nodes compute: CLIP Text Encode twice, KSampler."""
    encode = nodes.CLIPTextEncode().encode
    return _sample_from(model, encode(clip, prompt)[0], encode(clip, "")[0], seed, steps)


def _sample_from(model, positive, negative, seed: int = 3, steps: int = 2) -> torch.Tensor:
    latent = {"samples": torch.zeros(1, *LATENT_SHAPE)}
    answer = nodes.KSampler().sample(
        model, seed, steps, 2.0, "euler", "simple", positive, negative, latent
    )
    return answer[0]["samples"]


def test_node_is_listed_with_the_words_it_knows():
    assert VDiTToyWorld in NODES
    schema = VDiTToyWorld.GET_SCHEMA()
    assert schema.node_id == "VDiTToyWorld"
    assert [o.io_type for o in schema.outputs] == ["MODEL", "CLIP", "VAE"]
    assert all(i.tooltip for i in schema.inputs)
    for word in WORDS[3:]:
        assert word in schema.description


def test_files_are_small():
    files = list(toy_world.WEIGHTS.iterdir())
    assert sorted(f.name for f in files) == [
        "toy_mochi.safetensors",
        "toy_text.safetensors",
        "toy_wan.safetensors",
        "toy_wan_vae.safetensors",
    ]
    assert sum(f.stat().st_size for f in files) < 12e6


def test_stock_load_diffusion_model_knows_it_as_wan(stock_folders, world):
    model = nodes.UNETLoader().load_unet(toy_world.MODEL_FILES["wan"], "default")[0]
    assert type(model.model).__name__ == "WAN21"
    assert len(model.model.diffusion_model.blocks) == 6
    assert torch.equal(_sample(model, world[1]), _sample(world[0], world[1]))


def test_stock_load_vae_finds_every_weight(stock_folders, world):
    vae = nodes.VAELoader().load_vae(toy_world.VAE_FILE)[0]
    weights = comfy.utils.load_torch_file(str(toy_world.WEIGHTS / toy_world.VAE_FILE))
    assert vae.first_stage_model is not None
    assert vae.first_stage_model.state_dict().keys() == weights.keys()
    latent = {"samples": _sample(world[0], world[1])}
    with torch.inference_mode():
        pictures = nodes.VAEDecode().decode(vae, latent)[0]
    assert pictures.shape == (17, 64, 64, 3)


def test_model_file_has_every_weight(world):
    weights = comfy.utils.load_torch_file(str(toy_world.WEIGHTS / toy_world.MODEL_FILES["wan"]))
    assert world[0].model.diffusion_model.state_dict().keys() == weights.keys()


def test_mochi_is_comfyuis_own_and_has_every_weight_of_its_file(mochi):
    network = mochi[0].model.diffusion_model
    assert type(mochi[0].model).__name__ == "GenmoMochi"
    assert type(network) is core_mochi.AsymmDiTJoint
    path = toy_world.WEIGHTS / toy_world.MODEL_FILES["mochi"]
    weights: Any = comfy.utils.load_torch_file(str(path))
    assert network.state_dict().keys() == weights.keys()
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name].to(value.dtype)), name


def test_second_run_equals_the_first(variant):
    assert torch.equal(_sample(variant[0], variant[1]), _sample(variant[0], variant[1]))


def test_a_row_of_a_batch_is_what_a_ksampler_gives(variant):
    model, clip, _ = variant
    other = "a blue ring still on a dark background"
    batch = sample_latents(model, clip, [other, PROMPT], [1, 3], SamplerSettings(steps=2))
    torch.testing.assert_close(batch[1:], _sample(model, clip), rtol=1e-4, atol=1e-4)


def test_the_shift_is_set_on_a_copy(variant):
    model, clip, _ = variant
    before, own = _sample(model, clip), model.get_model_object("model_sampling").shift
    shifted, same = (
        sample_latents(model, clip, [PROMPT], [3], SamplerSettings(steps=2, shift=shift))
        for shift in (3.0, own)
    )
    assert not torch.allclose(shifted, before)
    torch.testing.assert_close(same, before, rtol=1e-4, atol=1e-4)
    assert torch.equal(_sample(model, clip), before)


def test_prompts_become_word_vectors(world):
    (cond, extra), *rest = nodes.CLIPTextEncode().encode(world[1], PROMPT)[0]
    assert rest == []
    assert extra["pooled_output"] is None
    assert torch.equal(cond, embed([PROMPT], word_vectors()))


def test_mochi_prompts_are_padded_and_say_so(mochi):
    encode = nodes.CLIPTextEncode().encode
    for text, words in ((PROMPT, 8), ("red ring", 2), ("", 0)):
        cond, extra = encode(mochi[1], text)[0][0]
        assert torch.equal(cond, embed([text], word_vectors()))
        assert extra["attention_mask"].tolist() == [[1] * words + [0] * (LENGTH - words)]
        assert extra["attention_mask"].dtype == torch.int64  # as from ComfyUI's encoder


@pytest.mark.parametrize("prompt", ["red ring", PROMPT])
def test_mochi_attends_to_the_words_and_never_to_padding(mochi, monkeypatch, prompt):
    keys: list[int] = []
    attend = core_mochi.optimized_attention

    def noted(q, k, v, *args, **kwargs):
        keys.append(k.shape[2])
        return attend(q, k, v, *args, **kwargs)

    monkeypatch.setattr(core_mochi, "optimized_attention", noted)
    encode = nodes.CLIPTextEncode().encode
    (text, extra), empty = encode(mochi[1], prompt)[0][0], encode(mochi[1], "")[0]
    words = len(prompt.split())
    other = text.clone()
    other[:, words:] = 9.0
    outs = [_sample_from(mochi[0], [[x, extra]], empty) for x in (text, other)]
    assert torch.equal(*outs)
    assert set(keys) == {320 + words, 320 + 1}  # ComfyUI leaves one token of an empty prompt


def test_mochi_refuses_a_batch_of_prompts_of_different_length(mochi):
    with pytest.raises(ValueError, match=r"they have 8, 2 words, but Mochi crops"):
        sample_latents(mochi[0], mochi[1], [PROMPT, "red ring"], [1, 3], SamplerSettings(steps=2))


def test_mochi_is_trained_as_it_is_sampled(monkeypatch):
    """Padding, sign and time: the training's velocity is what the sampler steps along."""
    monkeypatch.setattr(sys, "argv", [*sys.argv])  # the script takes its arguments when imported
    from vdit_attention.vdit_core.host import toy_training

    network = toy_networks.trainable_mochi(0)
    torch.nn.init.normal_(network.final_layer.linear.weight, std=0.1)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    config = MOCHI_CONFIG | {"mlp_width": MOCHI_MLP_WIDTH}
    base = toy_mochi.mochi_patcher(weights, config).model
    prompts, sigma = [PROMPT, "red ring", ""], torch.tensor([0.2, 0.5, 0.9])
    text, noisy = embed(prompts, word_vectors()), torch.randn(3, *LATENT_SHAPE)
    with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
        velocity = toy_training.mochi_velocity(network)(noisy, sigma * 1000, text)
        for row, words in enumerate((8, 2, 0)):
            mask = (torch.arange(LENGTH) < words).long()[None]
            denoised = base.apply_model(
                noisy[row : row + 1],
                sigma[row : row + 1],
                c_crossattn=text[row : row + 1],
                attention_mask=mask,
                num_tokens=max(1, words),
            )
            expected = noisy[row] - sigma[row] * velocity[row]
            torch.testing.assert_close(denoised[0], expected, rtol=1e-4, atol=1e-4)


def test_mochi_shows_the_colours_it_is_asked_for(mochi):
    model, clip, vae = mochi
    colours = ["red", "yellow", "green", "blue"]
    prompts = [f"a {colour} circle still on a dark background" for colour in colours]
    latents = sample_latents(model, clip, prompts, [1, 2, 3, 4], SamplerSettings(steps=10))
    with torch.inference_mode():
        seen = read(decode_clips(vae, latents)).colour.tolist()
    assert [[*COLOURS][index] for index in seen] == colours


def test_weights_scale_a_word(world):
    cond = nodes.CLIPTextEncode().encode(world[1], "a (red:1.5) circle")[0][0][0]
    plain = embed(["a red circle"], word_vectors())
    assert torch.equal(cond[0, 1], plain[0, 1] * 1.5)
    assert torch.equal(cond[0, 2], plain[0, 2])


def test_an_unknown_word_stops_at_clip_text_encode(world):
    with pytest.raises(ValueError, match=r"does not know 'elephant'; its words are a, on"):
        nodes.CLIPTextEncode().encode(world[1], "a red elephant")
    with pytest.raises(ValueError, match=r"20 words, .* at most 16"):
        nodes.CLIPTextEncode().encode(world[1], "red " * 20)


def test_clip_set_last_layer_changes_nothing(world):
    other = nodes.CLIPSetLastLayer().set_last_layer(world[1], -2)[0]
    encode = nodes.CLIPTextEncode().encode
    assert torch.equal(encode(other, PROMPT)[0][0][0], encode(world[1], PROMPT)[0][0][0])


def test_missing_and_foreign_files_are_named(tmp_path):
    for variant, name in toy_world.MODEL_FILES.items():
        with pytest.raises(FileNotFoundError, match=rf"{name} is missing from"):
            toy_world.load_toy_world(tmp_path, variant)
    with pytest.raises(ValueError, match=r"toy_wan.safetensors: no toy Mochi"):
        toy_mochi.load_toy_mochi(toy_world.WEIGHTS / toy_world.MODEL_FILES["wan"])
    with pytest.raises(ValueError, match=r"toy_wan.safetensors: no toy text encoder"):
        toy_world.load_toy_clip(toy_world.WEIGHTS / toy_world.MODEL_FILES["wan"])


def test_the_vocabulary_is_in_the_file():
    _, metadata = comfy.utils.load_torch_file(
        str(toy_world.WEIGHTS / toy_world.TEXT_FILE), return_metadata=True
    )
    assert metadata is not None
    assert tuple(json.loads(metadata["words"])) == WORDS
