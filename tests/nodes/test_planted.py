"""The planted models are what they say: dense float64 maps of the Q and K that went past."""

from __future__ import annotations

import comfy.sample
import pytest
import torch
from torch import Tensor
from vdit_attention.benchmarks import planted
from vdit_attention.tests.nodes import families, tiny
from vdit_attention.tests.nodes.families import MOCHI, VIDEO, WAN, Seen
from vdit_attention.tests.oracle import Case, no_wish
from vdit_attention.vdit_core.grid import TokenGrid

TAU = 0.5
SINKS, LOCAL = {0: (1,), 2: (0, 3)}, (1,)
PLACE = 41  # of the marked video token in Wan; frame 1, row 0, col 6
GRID = TokenGrid(tiny.FRAMES, tiny.ROWS, tiny.COLS)


def wan_calls(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    model = tiny.tiny_wan(**planted.WAN_CONFIG)
    planted.plant_wan(model, SINKS, LOCAL)
    noise = comfy.sample.prepare_noise(tiny.empty_latent()["samples"], 1)
    return WAN.spied(model, monkeypatch, noise=planted.marked_noise(noise, PLACE))


def mochi_calls(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    model = families.tiny_mochi()
    planted.plant_mochi(model, SINKS, LOCAL)
    prompts = [planted.marked_prompt(MOCHI.prompt(*which)) for which in ((1,), (2, 4))]
    return MOCHI.spied(model, monkeypatch, positive=prompts[0], negative=prompts[1])


@pytest.fixture(params=[(wan_calls, PLACE), (mochi_calls, VIDEO)], ids=["Wan", "Mochi"])
def calls_and_sink(request, monkeypatch):
    calls, sink = request.param
    return calls(monkeypatch), sink


def true_maps(seen: Seen) -> Tensor:
    """[B, H, Lq, Lk] in float64."""
    return Case(seen.q, seen.k, seen.v, no_wish(seen.q.shape[0], seen.heads)).true_maps()


def kept_near(maps: Tensor) -> Tensor:
    """Mass that video tokens keep for video tokens one step away or nearer, [B, H]."""
    place = torch.stack(GRID.unravel(torch.arange(VIDEO)), -1)
    near = (place[:, None] - place[None]).abs().amax(-1) <= 1
    return (maps[..., :VIDEO, :VIDEO] * near).sum(-1).mean(-1)


def test_only_the_planted_heads_are_sinks_and_only_at_the_chosen_token(calls_and_sink):
    calls, sink = calls_and_sink
    assert len(calls) >= 4 * tiny.LAYERS // 2
    for index, seen in enumerate(calls):
        maps = true_maps(seen)
        share = (maps >= TAU).double().mean(-2)  # of the queries, per key [B, H, Lk]
        for head in range(seen.heads):
            if head in SINKS.get(index % tiny.LAYERS, ()):
                assert (share[:, head, sink] > 0.9).all()
                assert share[:, head].argmax(-1).eq(sink).all()
            else:
                assert share[:, head].max() < 0.1, (index, head)


def test_the_value_at_a_sink_is_tiny(calls_and_sink):
    calls, sink = calls_and_sink
    for index, seen in enumerate(calls):
        for head in SINKS.get(index % tiny.LAYERS, ()):
            norms = seen.v[:, head].double().norm(dim=-1)  # [B, Lk]
            assert (norms[:, sink] < 0.1 * norms.median(-1).values).all()


def test_local_layers_look_next_door_and_flat_heads_everywhere(calls_and_sink):
    calls, _ = calls_and_sink
    for index, seen in enumerate(calls):
        layer, maps = index % tiny.LAYERS, true_maps(seen)
        if layer in LOCAL:
            assert kept_near(maps).min() > 0.95
            continue
        flat = [head for head in range(seen.heads) if head not in SINKS[layer]]
        assert maps[:, flat].max() < 2 / maps.shape[-1]
