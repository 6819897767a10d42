"""The toy world in ComfyUI: its files load through the stock loaders, encode, sample and decode."""

from __future__ import annotations

import json

import comfy.utils
import folder_paths
import pytest
import torch
from vdit_attention.nodes.toy import NODES, VDiTToyWorld
from vdit_attention.vdit_core.host import toy_world
from vdit_attention.vdit_core.host.toy_sampling import (
    LATENT_SHAPE,
    SamplerSettings,
    sample_latents,
)
from vdit_attention.vdit_core.toy.text import WORDS, embed, word_vectors

import nodes

PROMPT = "a red circle falling on a striped background"


@pytest.fixture(scope="module")
def world():
    return VDiTToyWorld.execute("wan").result


@pytest.fixture
def stock_folders(monkeypatch):
    """The stock loaders see the pack's weights."""
    for kind in ("diffusion_models", "vae"):
        entry = ([str(toy_world.WEIGHTS)], {".safetensors"})
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, entry)


def _sample(model, clip, seed: int = 3, steps: int = 2) -> torch.Tensor:
    """What stock nodes compute: CLIP Text Encode twice, KSampler."""
    encode = nodes.CLIPTextEncode().encode
    latent = {"samples": torch.zeros(1, *LATENT_SHAPE)}
    positive, negative = encode(clip, PROMPT)[0], encode(clip, "")[0]
    answer = nodes.KSampler().sample(
        model, seed, steps, 2.0, "euler", "simple", positive, negative, latent
    )
    return answer[0]["samples"]


def test_node_is_listed_with_the_words_it_knows():
    assert NODES == [VDiTToyWorld]
    schema = VDiTToyWorld.GET_SCHEMA()
    assert schema.node_id == "VDiTToyWorld"
    assert [o.io_type for o in schema.outputs] == ["MODEL", "CLIP", "VAE"]
    assert all(i.tooltip for i in schema.inputs)
    for word in WORDS[3:]:
        assert word in schema.description


def test_files_are_small():
    files = list(toy_world.WEIGHTS.iterdir())
    assert sorted(f.name for f in files) == [
        "toy_text.safetensors",
        "toy_wan.safetensors",
        "toy_wan_vae.safetensors",
    ]
    assert sum(f.stat().st_size for f in files) < 12e6


def test_stock_load_diffusion_model_knows_it_as_wan(stock_folders, world):
    model = nodes.UNETLoader().load_unet(toy_world.MODEL_FILE, "default")[0]
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
    weights = comfy.utils.load_torch_file(str(toy_world.WEIGHTS / toy_world.MODEL_FILE))
    assert world[0].model.diffusion_model.state_dict().keys() == weights.keys()


def test_second_run_equals_the_first(world):
    assert torch.equal(_sample(world[0], world[1]), _sample(world[0], world[1]))


def test_a_row_of_a_batch_is_what_a_ksampler_gives(world):
    settings = SamplerSettings(steps=2)
    batch = sample_latents(world[0], world[1], ["a blue ring still", PROMPT], [1, 3], settings)
    torch.testing.assert_close(batch[1:], _sample(world[0], world[1]), rtol=1e-4, atol=1e-4)


def test_the_shift_is_set_on_a_copy(world):
    before = _sample(world[0], world[1])
    shifted = sample_latents(world[0], world[1], [PROMPT], [3], SamplerSettings(steps=2, shift=3.0))
    assert not torch.allclose(shifted, before)
    assert torch.equal(_sample(world[0], world[1]), before)


def test_prompts_become_word_vectors(world):
    (cond, extra), *rest = nodes.CLIPTextEncode().encode(world[1], PROMPT)[0]
    assert rest == []
    assert extra["pooled_output"] is None
    assert torch.equal(cond, embed([PROMPT], word_vectors()))


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
    with pytest.raises(FileNotFoundError, match=r"toy_wan.safetensors is missing from"):
        toy_world.load_toy_world(tmp_path)
    with pytest.raises(ValueError, match=r"toy_wan.safetensors: no toy text encoder"):
        toy_world.load_toy_clip(toy_world.WEIGHTS / toy_world.MODEL_FILE)


def test_the_vocabulary_is_in_the_file():
    _, metadata = comfy.utils.load_torch_file(
        str(toy_world.WEIGHTS / toy_world.TEXT_FILE), return_metadata=True
    )
    assert metadata is not None
    assert tuple(json.loads(metadata["words"])) == WORDS
