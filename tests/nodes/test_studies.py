"""What the studies share: the same seeds for every way, means and spreads, plots, rankings."""

from __future__ import annotations

import pytest
import torch
from vdit_attention.benchmarks.gallery import table
from vdit_attention.benchmarks.scatter import draw_scatter, plot_of, points_of
from vdit_attention.benchmarks.variants import (
    edited,
    entropies,
    entropy_layers,
    likeness,
    make_trial,
    numbers_of,
    random_layers,
    table_of,
)
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.host.toy_sampling import SamplerSettings, sample_latents
from vdit_attention.vdit_core.toy.clips import random_scenes, render


@pytest.fixture(scope="module")
def trial():
    scenes = random_scenes(5, torch.Generator().manual_seed(4))
    return make_trial(scenes, [9, 8, 7, 6, 5], SamplerSettings(steps=1))


@torch.inference_mode()
def test_every_clip_has_its_own_prompt_and_seed_whatever_the_way(trial) -> None:
    numbers: list[int] = []

    def way(number: int):
        numbers.append(number)
        return trial.model

    found = trial.latents(way)
    prompts = [scene.prompt for scene in trial.scenes]
    alone = sample_latents(trial.model, trial.clip, prompts[4:], [5], trial.settings)
    assert numbers == [0, 1] and len(found) == 5
    assert torch.allclose(found[4:], alone, atol=1e-4)
    skipped = trial.latents(lambda n: edited(trial.model, Skip(), [1]) if n else trial.model)
    assert torch.equal(skipped[:4], found[:4]) and not torch.allclose(skipped[4], found[4])


@torch.inference_mode()
def test_halves_of_the_layers_share_nothing_and_go_by_entropy(trial) -> None:
    found = entropies(trial)
    means = {layer: sum(heads.values()) / len(heads) for layer, heads in found.items()}
    high, low = (entropy_layers(trial, 0.5, side) for side in ("high", "low"))
    assert sorted((*high, *low)) == list(range(6))
    assert min(means[layer] for layer in high) > max(means[layer] for layer in low)
    assert all(0 < mean < 1 for mean in means.values())


def test_random_layers_are_as_many_others_each_time(trial) -> None:
    drawn = [random_layers(trial, (0, 3, 5), number) for number in range(40)]
    assert all(len(set(layers)) == 3 for layers in drawn) and (0, 3, 5) not in drawn
    assert len(set(drawn)) > 8 and drawn[3] == random_layers(trial, (0, 3, 5), 3)


def test_rendered_clips_read_as_what_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    scenes = random_scenes(8, generator)
    clips = render(scenes, generator)
    numbers = numbers_of(clips, scenes)
    assert float(numbers["words right"].mean()) == 1
    assert bool((numbers["sharpness"] > 0).all()) and len(numbers["consistency"]) == 8
    others = [*scenes[1:], scenes[0]]
    assert float(numbers_of(clips, others)["words right"].mean()) < 0.6
    assert likeness(clips, clips).tolist() == pytest.approx([1] * 8)
    assert float(likeness(clips, clips.flip(0)).max()) < 0.9


def test_a_table_has_means_spreads_and_what_they_are_against_none() -> None:
    plain = {"words right": torch.tensor([1.0, 0.0, 1.0, 0.0])}
    other = {"words right": torch.tensor([1.0, 0.5, torch.nan, 0.5])}
    none, edit = table_of({"none": plain, "edit": other}, "none", "a group")
    assert (none.name, none.value, none.group) == ("none: words right", 0.5, "a group")
    assert none.spread == pytest.approx(torch.tensor([1.0, 0.0, 1.0, 0.0]).std().item())
    assert "4 seeds" in none.note and "against" not in none.note
    assert edit.value == pytest.approx(2 / 3) and edit.note.startswith("3 seeds")
    assert "+0.333 ± 0.17 (standard error) against none" in edit.note


def test_a_plot_takes_two_columns_of_a_table() -> None:
    values = {"a, 1": (1.0, 2.0), "b": (3.0, 5.0), "c": (float("nan"), 1.0)}
    ways = {
        name: {"kept": torch.tensor([x, x + 1]), "shown": torch.tensor([y, y])}
        for name, (x, y) in values.items()
    }
    checks = [check.to_json() | {"group": "g"} for check in table_of(ways, "b")]
    points = points_of(checks, "kept", "shown")
    assert [(p.name, p.across[0], p.up[0]) for p in points] == [("a, 1", 1.5, 2.0), ("b", 3.5, 5.0)]
    assert points[0].across[1] == pytest.approx(0.5**0.5) and points[0].up[1] == 0
    image = draw_scatter(points, "kept", "shown")
    assert torch.equal(image, draw_scatter(points, "kept", "shown"))
    assert plot_of(checks, "kept", "shown").startswith("<img ")
    assert plot_of(checks, "kept", "nothing of that name") == ""
    assert "± 0.71" in table(checks)
