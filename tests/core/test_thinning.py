"""What a run says of sparsity."""

from __future__ import annotations

import torch
from vdit_attention.vdit_core.attention.thin import Thinning
from vdit_attention.vdit_core.plan import AttentionPlan, Threshold
from vdit_attention.vdit_core.sites import Call, Site
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
