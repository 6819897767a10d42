"""Sources kept and replayed in every family, through ComfyUI's own sampler."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.families import FAMILIES, JOINT, Family
from vdit_attention.vdit_core.edits.replay import Replay
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.host.comfy import attach
from vdit_attention.vdit_core.pairs import pair_latent, pair_prompts
from vdit_attention.vdit_core.program import Asker, Keep
from vdit_attention.vdit_core.selection import parse_where
from vdit_attention.vdit_core.sources import Memory, Source

VIDEO_ONLY = "video→video"


def kept(family: Family, model: Any, prompt: tiny.Conditioning) -> Source:
    source = Source(Memory(lambda: 2**40))
    keep = Keep(Asker("Keep"), parse_where("all", "all"), source, dtype="fp32")
    family.sample(attach(model, keep), positive=prompt)
    return source


def replayed(
    family: Family, model: Any, source: Source, prompt: tiny.Conditioning, *change: Any
) -> Tensor:
    edited = tiny.edited(model, Replay(source, *change), layers="0,2")
    return family.sample(edited, positive=prompt)


def paired(family: Family, model: Any, both: tiny.Conditioning, *change: Any) -> Tensor:
    edited = tiny.edited(model, PairTransfer(*change), layers="0,2")
    return family.sample(edited, positive=both, latent=pair_latent(family.latent()))[1:]


def check_same(ours: Tensor, pair: Tensor, plain: Tensor) -> None:
    """They differ by rounding, which is less than what the edit changes.

    In a tiny CogVideoX an edit changes little, and a batch of two alone rounds by .0005.
    """
    changed, apart = ((pair - other).double().norm() for other in (plain, ours))
    assert changed > 1e-3
    assert apart < 0.2 * changed, (apart, changed)


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_replay_is_the_transfer_of_a_pair(family: Family, strength: float) -> None:
    model, source, target = family.make(), family.prompt(1), family.prompt(3)
    plain = family.sample(model, positive=target)
    for region in ("all", VIDEO_ONLY) if family in JOINT else ("all",):
        ours = replayed(family, model, kept(family, model, source), target, strength, region)
        pair = paired(family, model, pair_prompts(source, target), strength, region)
        check_same(ours, pair, plain)


@pytest.mark.parametrize("lengths", [(4, 7), (7, 4)], ids=["longer", "shorter"])
@pytest.mark.parametrize("family", JOINT, ids=lambda family: family.name)
def test_prompts_of_other_lengths_can_follow_among_the_video(
    family: Family, lengths: tuple[int, int]
) -> None:
    """The pair is padded to the longer prompt and hides the padding; a replay needs neither."""
    model = family.make()
    source, target = (family.prompt(seed, n) for seed, n in zip((1, 3), lengths, strict=True))
    ours = replayed(family, model, kept(family, model, source), target, 1.0, VIDEO_ONLY)
    pair = paired(family, model, pair_prompts(source, target), 1.0, VIDEO_ONLY)
    check_same(ours, pair, family.sample(model, positive=target))


@pytest.mark.parametrize("family", JOINT, ids=lambda family: family.name)
def test_a_whole_map_of_other_length_is_refused(family: Family) -> None:
    model = family.make()
    source = kept(family, model, family.prompt(1, 4))
    with pytest.raises(ValueError, match="prompts differ in length; choose region video→video"):
        replayed(family, model, source, family.prompt(3, 7), 1.0, "all")
