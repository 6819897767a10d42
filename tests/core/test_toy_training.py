"""Training: from one seed always the same weights, also when it is killed and started again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from vdit_attention.vdit_core.toy import training
from vdit_attention.vdit_core.toy.clips import random_scenes
from vdit_attention.vdit_core.toy.latents import LatentBasis

SCHEDULE = training.Schedule(steps=6, batch=3, rate=1e-2, warmup=2, seed=4)


class TinyFlow(nn.Module):
    """A velocity model with a matrix for Muon; raises at its call number `die_at`."""

    def __init__(self, die_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(16, 16)
        self.text = nn.Linear(64, 16)
        self.calls, self.die_at = 0, die_at

    def forward(self, noisy: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        if self.calls == self.die_at:
            raise KeyboardInterrupt
        self.calls += 1
        told = self.text(text).mean(1) + timestep[:, None] / 1000
        return self.mix(noisy.movedim(1, -1)).movedim(-1, 1) + told[:, :, None, None, None]


class CarefulRun(training.Run):
    """Saves after every step."""

    def steps(self, save_every: float = 0.0) -> Iterator[int]:
        return super().steps(-1.0)


def _train(path: Path, die_at: int | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(8, 16, 2, 3, 2, generator=generator)
    scenes = random_scenes(8, generator)
    network = TinyFlow(die_at)
    run = CarefulRun(path, network, SCHEDULE, lambda name: name.startswith("mix"))
    training.train_flow(run, network, latents, scenes, shift=4.0, report=lambda line: None)
    return {**network.state_dict(), **{f"average {k}": v for k, v in run.average.items()}}


def _assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_same_seed_gives_the_same_weights(tmp_path: Path):
    first = _train(tmp_path / "a.pt")
    torch.manual_seed(99)
    _assert_equal(first, _train(tmp_path / "b.pt"))
    assert not torch.equal(first["mix.weight"], TinyFlow().mix.weight)


@pytest.mark.parametrize("died", [1, 4])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, died: int):
    whole = _train(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "killed.pt", die_at=died)
    assert torch.load(tmp_path / "killed.pt", weights_only=True)["step"] == died
    _assert_equal(whole, _train(tmp_path / "killed.pt"))


def test_a_finished_run_does_nothing(tmp_path: Path):
    done = _train(tmp_path / "a.pt")
    _assert_equal(done, _train(tmp_path / "a.pt", die_at=0))


def test_a_kill_while_saving_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.pt"
    _train(path)
    before = path.read_bytes()

    def broken(state: object, target: Path) -> None:
        target.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", broken)
    run = CarefulRun(path, TinyFlow(), SCHEDULE, lambda name: name.startswith("mix"))
    with pytest.raises(KeyboardInterrupt):
        run.save()
    assert path.read_bytes() == before


def test_the_rate_rises_and_falls():
    schedule = training.Schedule(steps=100, batch=1, rate=1.0, warmup=10)
    assert schedule.factor(0) == pytest.approx(0.1)
    assert schedule.factor(50) == 1
    assert schedule.factor(90) == pytest.approx(0.5)
    assert schedule.factor(100) == 0


def test_rendered_latents_are_reproducible():
    some = torch.randn(4 * 8 * 8 * 3, 16, generator=torch.Generator().manual_seed(0))
    basis = LatentBasis(torch.zeros(len(some)), torch.linalg.qr(some).Q, torch.ones(16))
    first = training.render_latents(4, 1, basis, lambda line: None)
    second = training.render_latents(4, 1, basis, lambda line: None)
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1]
