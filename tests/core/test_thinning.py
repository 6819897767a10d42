"""What a run says of sparsity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from vdit_attention.vdit_core.attention.thin import Thinning
from vdit_attention.vdit_core.plan import AttentionPlan, Blocks, Threshold
from vdit_attention.vdit_core.sites import Call, Excerpt, Site
from vdit_attention.vdit_core.thinning import Thinned


def test_a_layer_that_the_schedule_spares_is_not_in_the_report() -> None:
    memory, sites = Thinned(), [Site(f"blocks.{n}.self_attn", n, "self", 2) for n in (0, 1)]
    for site, rate in zip(sites, (0.0, 0.5), strict=True):
        plan = AttentionPlan(threshold=Threshold(torch.full((1, 2), rate)))
        dropped = Thinning(torch.zeros(1, 2), torch.full((1, 2), rate), torch.full((1, 2), 0.1))
        memory.hear(plan, Call(site, 0, 0, 1.0, ("cond",), (0,)), dropped)
    report = memory.report(sites)
    assert "layer 1: asked 50.0%, dropped 50.0%, mass lost 10.00%" in report
    assert "layer 0" not in report


OTHERS = {
    "another prompt": {"prompts": (1,)},
    "another window of the video": {"excerpt": Excerpt((3, 4), 7)},
    "another branch": {"branches": ("uncond",)},
}


@pytest.mark.parametrize("name", [None, *OTHERS])
def test_a_choice_of_blocks_serves_only_whom_it_was_made_for(name: str | None) -> None:
    memory, x = Thinned(), torch.rand(1, 2, 8, 4)
    threshold = Threshold(torch.full((1, 2), 0.5), blocks=Blocks(4, reuse=3))
    plan, kept = AttentionPlan(threshold=threshold), torch.ones(1, 2, 2, 2, dtype=torch.bool)
    site = Site("blocks.0.self_attn", 0, "self", 2)
    call = Call(site, 0, 0, 1.0, ("cond",), (0,), (0,), Excerpt((0, 1), 7))
    dropped = Thinning(torch.zeros(1, 2), torch.full((1, 2), 0.5), torch.full((1, 2), 0.1), kept)
    memory.hear(plan, call, dropped)
    later = replace(call, step=1, **(OTHERS[name] if name else {}))
    found = memory.planned(plan, later, x, x, None, None, False).threshold
    assert found is not None and found.blocks is not None
    assert (found.blocks.kept is None) == (name is not None)
