"""Context windows: the video is cut along its frames, and each call sees a part of them.

Which frames a call sees is told from outside: each is looked up in the whole noisy video.
"""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention as core
import comfy.ldm.wan.model
import comfy.patcher_extension
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from torch import Tensor
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.test_labels import entropies, planted
from vdit_attention.tests.oracle import Case, assert_as_good_as_torch, no_wish
from vdit_attention.vdit_core.edits.replay import Replay
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.figures import attention_map
from vdit_attention.vdit_core.figures.frames import FrameAxis
from vdit_attention.vdit_core.figures.legend import moment_text
from vdit_attention.vdit_core.figures.origin import check_origin
from vdit_attention.vdit_core.figures.panels import choose_calls
from vdit_attention.vdit_core.host.comfy import attach
from vdit_attention.vdit_core.pairs import pair_latent, pair_prompts
from vdit_attention.vdit_core.program import Asker, Capture, Keep
from vdit_attention.vdit_core.record import Record, load_record, save_record
from vdit_attention.vdit_core.selection import parse_selection, parse_where
from vdit_attention.vdit_core.sources import Memory, Source

LONG = 7  # latent frames
SCHEDULES = ["standard_static", "standard_uniform", "looped_uniform", "batched"]
LAYERS, STEP = parse_selection("all", "layers"), parse_selection("1", "steps")


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return planted()


def cut(
    model: ModelPatcher, schedule: str = "standard_static", dim: int = 2, **more: Any
) -> ModelPatcher:
    """As the node makes it: windows of 3 frames that share 1."""
    how = {"closed_loop": True, "fuse_method": "pyramid", "dim": dim, "freenoise": False} | more
    return ContextWindowsManualNode.execute(model, 3, 1, schedule, 1, **how).args[0]


class Windows:
    """What the model was given: for each self-attention call, which frames of the whole video."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spy = tiny.Spy(core.attention_pytorch)
        monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", self.spy)
        self._video = torch.empty(0)
        self._frames: list[tuple[int, ...]] = []

    def sample(self, model: ModelPatcher, **how: Any) -> list[tuple[tuple[int, ...], tiny.Seen]]:
        """Sample seven frames: the self-attention calls, each with the frames it saw."""
        model, network = model.clone(), model.model.diffusion_model
        kind = comfy.patcher_extension.WrappersMP.PREDICT_NOISE
        model.add_wrapper_with_key(kind, "test", self._note_video)
        handle = network.register_forward_pre_hook(self._note_frames)
        try:
            tiny.sample(model, **({"latent": tiny.empty_latent(frames=LONG)} | how))
        finally:
            handle.remove()
        calls = [seen for seen in self.spy.seen if not seen.cross]
        assert len(calls) == tiny.LAYERS * len(self._frames)
        return [(self._frames[n // tiny.LAYERS], seen) for n, seen in enumerate(calls)]

    def _note_video(self, executor: Any, x: Tensor, *args: Any, **named: Any) -> Tensor:
        self._video = x
        return executor(x, *args, **named)

    def _note_frames(self, _: object, args: tuple[Any, ...]) -> None:
        part = args[0][0]
        found = [
            [n for n in range(LONG) if torch.equal(part[:, at], self._video[0, :, n])]
            for at in range(part.shape[1])
        ]
        self._frames.append(tuple(n for (n,) in found))


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Windows:
    return Windows(monkeypatch)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_measurement_says_which_frames_it_saw(
    schedule: str, model: ModelPatcher, windows: Windows
) -> None:
    watched, record = tiny.watched(cut(model, schedule))
    calls = windows.sample(watched, steps=3)
    found = iter(record.data.measurements)
    for frames, seen in calls:
        for row, entropy in enumerate(entropies(seen)):
            m = next(found)
            assert m.excerpt is not None
            assert (m.excerpt.frames, m.excerpt.of) == (frames, LONG)
            assert record.data.header_of(m).grid.frames == len(frames)
            assert (m.layer, m.sigma) == (seen.layer, seen.sigma)
            assert m.branch == ("cond", "uncond")[seen.chunks[row]]
            torch.testing.assert_close(m.measures.entropy.double(), entropy, rtol=1e-4, atol=1e-5)
    assert next(found, None) is None
    keys = [(m.site, m.step, m.branch, m.excerpt, m.evaluation) for m in record.data.measurements]
    assert len(set(keys)) == len(keys)
    assert {m.evaluation for m in record.data.measurements} == {0}


def test_a_frame_that_every_window_shows_is_named(model: ModelPatcher, windows: Windows) -> None:
    if "latent_retain_index_list" not in signature(ContextWindowsManualNode.execute).parameters:
        pytest.skip("Context Windows of this ComfyUI retain no frames")
    retaining = cut(model, latent_retain_index_list="1")
    watched, record = tiny.watched(retaining, layers="0", branch="cond")
    calls = [frames for frames, seen in windows.sample(watched) if seen.layer == 0]
    assert all(frames[1] == 1 for frames in calls)
    assert [m.excerpt and m.excerpt.frames for m in record.data.measurements] == calls


def test_a_video_that_fits_one_window_is_seen_whole(model: ModelPatcher) -> None:
    watched, record = tiny.watched(cut(model))
    tiny.sample(watched)
    assert {m.excerpt for m in record.data.measurements} == {None}


def test_readers_show_one_window_in_all_layers_and_say_which(
    model: ModelPatcher, windows: Windows, tmp_path: Path
) -> None:
    watched, record = tiny.watched(cut(model, "batched"))
    windows.sample(watched)
    save_record(record.data, tmp_path / "a.safetensors")
    for data in (record.data, load_record(tmp_path / "a.safetensors")):
        moment, shown = choose_calls(data, LAYERS, STEP, "cond", 0)
        assert [m.layer for m in shown] == [0, 1, 2]
        assert {m.excerpt.frames for m in shown if m.excerpt} == {(0, 1, 2)}
        assert "cond · latent frames 0-2 of 7 · Wan" in moment_text(data.header, moment)
        check_origin(data, tiny.empty_latent(frames=LONG)["samples"])
        image = attention_map(
            data, layers=LAYERS, head="mean", step=STEP, branch="cond", scale="log"
        )
        assert image.shape[-1] == 3
        with pytest.raises(ValueError, match="captured on 7 frames of 5 × 7 tokens"):
            check_origin(data, tiny.empty_latent(frames=3)["samples"])
    last = max(record.data.measurements, key=lambda m: m.excerpt.frames if m.excerpt else ())
    axis = FrameAxis.of(record.data.header_of(last), last.excerpt, 300)
    assert last.excerpt is not None
    assert axis.labels(room=10)[1] == [str(frame) for frame in last.excerpt.frames]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_edits_are_exact_in_every_window(
    schedule: str, model: ModelPatcher, windows: Windows
) -> None:
    changed = tiny.edited(cut(model, schedule), Temperature(0.5), heads="1", branch="cond")
    for _, seen in windows.sample(changed):
        wish = no_wish(len(seen.q), tiny.HEADS)
        wish.temperature[seen.chunks.index(0), 1] = 0.5
        assert_as_good_as_torch(seen.out, Case(seen.q, seen.k, seen.v, wish))


def test_a_pair_is_refused_as_comfyui_itself_cannot_cut_two_videos(model: ModelPatcher) -> None:
    pair = {
        "positive": pair_prompts(tiny.prompt(1), tiny.prompt(3)),
        "latent": pair_latent(tiny.empty_latent(frames=LONG)),
    }
    with pytest.raises(IndexError):
        tiny.sample(cut(model), **pair)
    with pytest.raises(ValueError) as error:
        tiny.sample(tiny.edited(cut(model), PairTransfer(0.6)), **pair)
    assert str(error.value) == (
        "Edit: ComfyUI's Context Windows take one video at a time, a pair is two; take that node "
        "out"
    )


def test_a_source_can_neither_be_kept_nor_replayed_in_windows(model: ModelPatcher) -> None:
    source = Source(Memory(lambda: 2**40))
    keep = Keep(Asker("Keep"), parse_where("all", "all"), source)
    tiny.sample(attach(model, keep), latent=tiny.empty_latent(frames=LONG))
    for changed in (attach(cut(model), keep), tiny.edited(cut(model), Replay(source, 1.0))):
        with pytest.raises(ValueError, match="Context Windows cut the video, a source does not"):
            tiny.sample(changed, latent=tiny.empty_latent(frames=LONG))
        tiny.sample(attach(model, keep), latent=tiny.empty_latent(frames=LONG))


def test_frames_cannot_be_chosen_where_each_call_sees_others(model: ModelPatcher) -> None:
    where = parse_where("all", "all")
    frames, steps = parse_selection("0-1", "frames"), parse_selection("all", "steps")
    watched = attach(cut(model), Capture(Asker("Capture"), where, steps, Record(), frames=frames))
    with pytest.raises(ValueError) as error:
        tiny.sample(watched, latent=tiny.empty_latent(frames=LONG))
    assert str(error.value) == (
        "Capture: frames '0-1' cannot be chosen beside Context Windows, where each call sees other "
        "frames; set frames to all, or take that node out"
    )


@pytest.mark.parametrize("dim", [0, 3])
def test_windows_along_another_axis_cannot_be_labelled(dim: int, model: ModelPatcher) -> None:
    latent = tiny.empty_latent(batch=4 if dim == 0 else 1)
    with pytest.raises(ValueError) as error:
        tiny.sample(tiny.watched(cut(model, dim=dim))[0], latent=latent)
    assert str(error.value) == (
        f"Capture: it cannot label context windows along dimension {dim} of the latent; set dim to "
        "2 (frames) on Context Windows, or take that node out"
    )
