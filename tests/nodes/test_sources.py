"""Sources kept by one sampling and replayed in another, through ComfyUI's own sampler."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from vdit_attention.tests.nodes import tiny
from vdit_attention.vdit_core.edits.replay import Replay
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.host.comfy import attach
from vdit_attention.vdit_core.pairs import pair_latent, pair_prompts
from vdit_attention.vdit_core.program import Asker, Keep, Window
from vdit_attention.vdit_core.selection import parse_where
from vdit_attention.vdit_core.sources import Folder, Memory, Shelf, Source, load_source

PLENTY = 2**40
SOURCE, TARGET = tiny.prompt(5), tiny.prompt(6)


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.tiny_wan()


def kept(
    model: ModelPatcher,
    shelf: Shelf | None = None,
    layers: str = "all",
    dtype: str = "fp32",
    window: Window = tiny.ALWAYS,
    heads: str = "all",
    **how: Any,
) -> tuple[Source, Tensor]:
    """A source of the prompt SOURCE, and its video."""
    source = Source(shelf or Memory(lambda: PLENTY))
    where = parse_where(layers, heads)
    keeping = attach(model, Keep(Asker("Keep"), where, source, window, dtype=dtype))
    return source, tiny.sample(keeping, **({"positive": SOURCE} | how))


def replayed(model: ModelPatcher, source: Source, strength: float = 1.0, **how: Any) -> Tensor:
    where = {k: how.pop(k) for k in ("layers", "heads", "branch", "window") if k in how}
    edited = tiny.edited(model, Replay(source, strength), **where)
    return tiny.sample(edited, **({"positive": TARGET} | how))


def paired(model: ModelPatcher, strength: float = 1.0, **how: Any) -> Tensor:
    where = {k: how.pop(k) for k in ("layers", "heads", "branch", "window") if k in how}
    edited = tiny.edited(model, PairTransfer(strength), **where)
    both = {"positive": pair_prompts(SOURCE, TARGET), "latent": pair_latent(tiny.empty_latent())}
    return tiny.sample(edited, **both, **how)[1:]


def test_keeping_a_source_changes_no_bit(model: ModelPatcher) -> None:
    assert torch.equal(kept(model)[1], tiny.sample(model, positive=SOURCE))


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_a_replay_is_the_transfer_of_a_pair(
    model: ModelPatcher, strength: float, sampler: str
) -> None:
    source, _ = kept(model, sampler=sampler)
    for where in ({}, {"layers": "1"}, {"heads": "0,2"}, {"branch": "cond"}):
        ours = replayed(model, source, strength, sampler=sampler, **where)
        pair = paired(model, strength, sampler=sampler, **where)
        torch.testing.assert_close(ours, pair, rtol=1e-4, atol=1e-4)
        plain = tiny.sample(model, positive=TARGET, sampler=sampler)
        assert (ours - plain).abs().max() > 0.01
    assert torch.equal(replayed(model, source, 0.0, sampler=sampler), plain)


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_in_equal_batches_a_replay_has_the_bits_of_the_pair(
    model: ModelPatcher, strength: float
) -> None:
    """Of batches of another size, matrix products round differently."""
    latent = pair_latent(tiny.empty_latent())
    source, _ = kept(model, latent=latent)
    ours = replayed(model, source, strength, latent=latent)
    assert torch.equal(ours[1:], paired(model, strength))


def test_one_source_serves_many(model: ModelPatcher) -> None:
    source, _ = kept(model)
    first = replayed(model, source)
    assert torch.equal(replayed(model, source), first)
    itself = tiny.edited(model, Replay(source, 1.0))
    assert torch.equal(tiny.sample(itself, positive=SOURCE), kept(model)[1])
    batch = replayed(model, source, latent=tiny.empty_latent(2) | {"batch_index": [0, 0]})
    torch.testing.assert_close(batch, first.expand_as(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_folder_holds_what_memory_holds(model: ModelPatcher, tmp_path: Path, dtype: str) -> None:
    memory, _ = kept(model, dtype=dtype)
    folder, _ = kept(model, Folder(tmp_path / "source"), dtype=dtype)
    opened = load_source(tmp_path / "source")
    assert opened.header == folder.header == memory.header
    wanted = replayed(model, memory)
    assert torch.equal(replayed(model, folder), wanted)
    assert torch.equal(replayed(model, opened), wanted)
    assert (wanted - replayed(model, kept(model)[0])).abs().max() < 0.2
    assert not list(tmp_path.glob("*.partial"))


def test_other_edits_act_beside_a_replay(model: ModelPatcher) -> None:
    source, _ = kept(tiny.edited(model, Temperature(0.5), layers="1-2"))
    replaying = tiny.edited(model, Replay(source, 1.0), layers="1")
    both = tiny.edited(replaying, Temperature(0.5), layers="1-2")
    watched, record = tiny.watched(both)
    ours = tiny.sample(watched, positive=TARGET)
    pair = tiny.edited(tiny.edited(model, PairTransfer(1.0), layers="1"), Temperature(0.5), "1-2")
    batch = {"positive": pair_prompts(SOURCE, TARGET), "latent": pair_latent(tiny.empty_latent())}
    torch.testing.assert_close(ours, tiny.sample(pair, **batch)[1:], rtol=1e-4, atol=1e-4)
    assert {m.item for m in record.data.measurements} == {0}


def test_a_cancelled_sampling_leaves_nothing(model: ModelPatcher, tmp_path: Path) -> None:
    def cancel(step: int, *_: object) -> None:
        raise InterruptProcessingException

    source = Source(Folder(tmp_path / "source"))
    keeping = attach(model, Keep(Asker("Keep"), parse_where("all", "all"), source))
    with pytest.raises(InterruptProcessingException):
        tiny.sample(keeping, positive=SOURCE, callback=cancel)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="nothing has been kept yet"):
        replayed(model, source)


def test_a_disk_that_takes_no_more_is_said_and_leaves_nothing(
    model: ModelPatcher, tmp_path: Path
) -> None:
    """Stands for a full disk: no file may grow beyond 100 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*Make room, or write less"):
            kept(model, Folder(tmp_path / "source"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    with pytest.raises(ValueError, match="was not written to its end"):
        load_source(tmp_path / "broken")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"steps": 3}, "number of steps is 3, but the source's was 2"),
        ({"sampler": "heun"}, "the sampler is heun, but the source's was euler"),
        ({"latent": tiny.empty_latent(1, 2)}, "the latent is 2 × 5 × 7 .* source's was 3 × 5 × 7"),
        ({"layers": "2"}, "heads 0, 1, 2 of blocks.2.self_attn are not in the source"),
        ({"heads": "3"}, "heads 3 of blocks.0.self_attn are not in the source"),
    ],
)
def test_what_does_not_fit_is_refused_before_sampling(
    model: ModelPatcher, how: dict[str, Any], words: str
) -> None:
    source, _ = kept(model, layers="0-1", heads="0-2")
    evaluations: list[int] = []
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda *_: evaluations.append(1))
    with pytest.raises(ValueError, match=words):
        replayed(model, source, **({"layers": "0-1", "heads": "0-2"} | how))
    hook.remove()
    assert not evaluations


def test_steps_that_were_not_kept_are_refused(model: ModelPatcher) -> None:
    source, _ = kept(model, window=Window(0, 0.5), steps=4)
    with pytest.raises(ValueError, match="the source holds no noise level"):
        replayed(model, source, steps=4)
    half = replayed(model, source, window=Window(0, 0.5), steps=4)
    assert not torch.equal(half, tiny.sample(model, positive=TARGET, steps=4))


def test_without_room_nothing_is_kept(model: ModelPatcher) -> None:
    with pytest.raises(ValueError, match=r"it would keep about .* MB \(3 layers × 2 steps"):
        kept(model, Memory(lambda: 1000))


def test_a_source_of_another_model_is_refused(model: ModelPatcher) -> None:
    source, _ = kept(model)
    larger = tiny.tiny_wan(num_layers=4)
    with pytest.raises(ValueError, match=r"model is Wan with 4 layers, .* Wan with 3 layers"):
        replayed(larger, source, layers="0")


def test_two_sources_in_one_layer_are_refused(model: ModelPatcher) -> None:
    source, _ = kept(model)
    one = tiny.edited(model, Replay(source, 1.0), layers="1")
    two = tiny.edited(one, Replay(kept(model)[0], 1.0), layers="1-2")
    with pytest.raises(ValueError, match="layers 1 already take their maps from elsewhere"):
        tiny.sample(two, positive=TARGET)
