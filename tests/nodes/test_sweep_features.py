"""A sweep beside ComfyUI's own features that leave something behind: it is resumed all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from vdit_attention.tests.nodes import tiny
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.replay import Replay
from vdit_attention.vdit_core.host import kept
from vdit_attention.vdit_core.host.comfy import attach, layout_of, program_of
from vdit_attention.vdit_core.host.kept import swept
from vdit_attention.vdit_core.program import Asker, Keep
from vdit_attention.vdit_core.selection import parse_selection, parse_where
from vdit_attention.vdit_core.sources import Memory, Source
from vdit_attention.vdit_core.sweep import OPERATIONS, sweep

FRAMES = 7


def windows(model: ModelPatcher, length: int = 3) -> ModelPatcher:
    how = {"closed_loop": True, "fuse_method": "pyramid", "dim": 2, "freenoise": False}
    return ContextWindowsManualNode.execute(model, length, 1, "standard_static", 1, **how).args[0]


def shifted(model: ModelPatcher, shift: float = 3.0) -> ModelPatcher:
    (patched,) = ModelSamplingSD3().patch(model, shift)
    return patched


FEATURES: dict[str, Callable[[ModelPatcher], ModelPatcher]] = {
    "context windows": windows,
    "EasyCache": lambda m: EasyCacheNode.execute(m, 0.2, 0.0, 1.0, False).args[0],
    "LazyCache": lambda m: LazyCacheNode.execute(m, 0.2, 0.0, 1.0, False).args[0],
    "another shift": shifted,
    "nothing": lambda m: m,
}


def entries(model: ModelPatcher, folder: Path) -> list[ModelPatcher]:
    edited = tiny.edited(model, Skip())
    asked = program_of(edited), parse_selection("0-1", "layers"), OPERATIONS[0], True
    return swept(edited, sweep(*asked, layout_of(edited)), Asker("Sweep"), folder)


@pytest.mark.parametrize("name", FEATURES)
def test_it_is_resumed_beside(name: str, tmp_path: Path) -> None:
    model = FEATURES[name](tiny.tiny_wan())
    latent = tiny.empty_latent(frames=FRAMES)
    first = [tiny.sample(m, latent=latent, steps=3) for m in entries(model, tmp_path)]
    assert len([*tmp_path.iterdir()]) == 3
    ran: list[int] = []
    model.model.diffusion_model.register_forward_pre_hook(lambda *_: ran.append(1))
    again = [tiny.sample(m, latent=latent, steps=3) for m in entries(model, tmp_path)]
    assert not ran
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    "pair",
    [(windows, lambda m: windows(m, 4)), (shifted, lambda m: shifted(m, 5.0))],
    ids=["context windows", "shift"],
)
def test_its_settings_are_part_of_the_key(
    pair: tuple[Callable[[ModelPatcher], ModelPatcher], ...], tmp_path: Path
) -> None:
    model, latent = tiny.tiny_wan(), tiny.empty_latent(frames=FRAMES)
    for feature in pair:
        tiny.sample(entries(feature(model), tmp_path)[1], latent=latent)
    assert len([*tmp_path.iterdir()]) == 2


def test_a_replayed_source_is_swept_but_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(kept, "tell", lambda _, line: told.append(line))
    model, source = tiny.tiny_wan(), Source(Memory(lambda: 1 << 30))
    tiny.sample(attach(model, Keep(Asker("Keep"), parse_where("all", "all"), source)), seed=5)
    replaying = tiny.edited(model, Replay(source, 1.0))
    asked = program_of(replaying), parse_selection("1", "layers"), OPERATIONS[0], False
    (entry,) = swept(replaying, sweep(*asked, layout_of(model)), Asker("Sweep"), tmp_path)
    by_hand = tiny.edited(model, Replay(source, 1.0), "1")
    assert torch.equal(tiny.sample(entry), tiny.sample(by_hand))
    assert told == ["1 of 1: layer 1; not kept: edits[0][0].source is a Source"]
    assert not [*tmp_path.iterdir()]
