"""Folding edits into one plan: temperatures and gates multiply, for the rest the later one wins."""

from __future__ import annotations

import torch
from torch import Tensor
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.plan import UNTOUCHED, Threshold
from vdit_attention.vdit_core.sites import Call, Site

SITE = Site("blocks.1.self_attn", 1, "self", 2)
CALL = Call(SITE, 0, 0, 1.0, ("uncond", "uncond", "cond", "cond"), (0, 1, 0, 1))
ALL = torch.ones(4, 2, dtype=torch.bool)
TARGETS = ALL & CALL.target_rows()[:, None]  # all that a run hands to an edit of pairs


def chosen(*heads: int, rows: str = "both") -> Tensor:
    table = torch.zeros(4, 2, dtype=torch.bool)
    table[:, list(heads)] = True
    return table & CALL.rows(rows)[:, None]


def test_an_untouched_plan_is_empty() -> None:
    assert UNTOUCHED.empty
    assert not UNTOUCHED.gated(torch.ones(4, 2)).empty


def test_temperatures_multiply() -> None:
    plan = Temperature(0.5).apply(UNTOUCHED, CALL, chosen(0))
    plan = Temperature(3.0).apply(plan, CALL, chosen(0, 1, rows="cond"))
    assert plan.temperature is not None
    assert plan.temperature.tolist() == [[0.5, 1], [0.5, 1], [1.5, 3], [1.5, 3]]


def test_gates_multiply() -> None:
    plan = Skip().apply(Skip().apply(UNTOUCHED, CALL, chosen(1)), CALL, chosen(0, rows="uncond"))
    assert plan.gate is not None
    assert plan.gate.tolist() == [[0, 0], [0, 0], [1, 0], [1, 0]]


def test_the_later_map_wins_where_it_was_chosen_and_only_there() -> None:
    plan = Perturb("identity", 0.25).apply(UNTOUCHED, CALL, ALL)
    plan = Perturb("uniform", 0.5).apply(plan, CALL, chosen(1))
    assert plan.map is not None
    assert plan.map.identity.tolist() == [[0.25, 0]] * 4
    assert plan.map.uniform.tolist() == [[0, 0.5]] * 4


def test_transfer_takes_from_the_source_of_the_same_branch() -> None:
    plan = PairTransfer(0.5).apply(UNTOUCHED, CALL, TARGETS)
    assert plan.source is not None
    assert plan.source.rows.tolist() == [0, 0, 2, 2]
    assert plan.source.strength.tolist() == [[0, 0], [0.5, 0.5], [0, 0], [0.5, 0.5]]


def test_the_later_transfer_wins_where_it_was_chosen_and_only_there() -> None:
    plan = PairTransfer(1.0).apply(UNTOUCHED, CALL, TARGETS)
    plan = PairTransfer(0.25).apply(plan, CALL, TARGETS & chosen(0, rows="cond"))
    assert plan.source is not None
    assert plan.source.strength.tolist() == [[0, 0], [1, 1], [0, 0], [0.25, 1]]


def test_two_conditionings_of_one_branch_keep_their_own_sources() -> None:
    branches = ("cond", "cond", "cond", "cond", "uncond", "uncond")
    call = Call(SITE, 0, 0, 1.0, branches, (0, 1, 0, 1, 0, 1))
    assert call.source_rows().tolist() == [0, 0, 2, 2, 4, 4]
    assert call.target_rows().tolist() == [False, True] * 3


def test_two_pairs_in_a_batch_stay_apart() -> None:
    call = Call(SITE, 0, 0, 1.0, ("cond",) * 4, (0, 1, 2, 3))
    assert call.source_rows().tolist() == [0, 0, 2, 2]


def test_edits_of_the_video_among_itself_fold_into_a_plan_of_their_own() -> None:
    plan = Temperature(0.5).apply(UNTOUCHED, CALL, chosen(0))
    plan = Temperature(3.0, "video→video").apply(plan, CALL, chosen(0, 1))
    plan = Temperature(0.5, "video→video").apply(plan, CALL, chosen(1))
    plan = PairTransfer(1.0, "video→video").apply(plan, CALL, TARGETS)
    assert plan.temperature is not None and plan.video is not None
    assert plan.temperature.tolist() == [[0.5, 1]] * 4
    assert plan.video.temperature is not None
    assert plan.video.temperature.tolist() == [[3, 1.5]] * 4
    assert plan.source is None and plan.video.source is not None
    alone = plan.alone
    assert alone.temperature is not None and alone.temperature.tolist() == [[1.5, 1.5]] * 4


def test_both_sources_make_one_for_the_video_alone() -> None:
    plan = PairTransfer(1.0).apply(UNTOUCHED, CALL, TARGETS & chosen(0))
    plan = PairTransfer(0.25, "video→video").apply(plan, CALL, TARGETS)
    assert plan.alone.source is not None
    assert plan.alone.source.strength.tolist() == [[0, 0], [1, 0.25], [0, 0], [1, 0.25]]


def test_a_threshold_is_found_and_replaced_where_it_is() -> None:
    new = Threshold(torch.full((4, 2), 0.25))
    outer = UNTOUCHED.thinned(ALL, Threshold(torch.full((4, 2), 0.5)))
    inner = UNTOUCHED.within("video→video", lambda part: part.thinned(ALL, new)).placed(slice(2, 9))
    assert outer.thinning is outer.threshold
    assert outer.with_thinning(new).threshold is new
    assert inner.video is not None and inner.thinning is inner.video.threshold
    assert inner.threshold is None and inner.with_thinning(None).empty


def test_gates_are_no_part_of_the_map() -> None:
    plan = Skip("video→video").apply(Skip().apply(UNTOUCHED, CALL, ALL), CALL, ALL)
    assert plan.placed(slice(2, 9)).ungated.empty


def test_the_later_threshold_wins_where_it_was_chosen() -> None:
    plan = UNTOUCHED.thinned(ALL, Threshold(torch.full((4, 2), 0.5)))
    plan = plan.thinned(chosen(1), Threshold(torch.full((4, 2), 0.75), renormalize=False))
    assert plan.threshold is not None
    assert plan.threshold.rate.tolist() == [[0.5, 0.75]] * 4


def test_edits_of_different_fields_fold_to_the_same_plan_in_any_order() -> None:
    changes = [Temperature(0.5), Skip(), Perturb("uniform", 0.5), PairTransfer(1.0)]
    plans = [UNTOUCHED, UNTOUCHED]
    for change in changes:
        plans[0] = change.apply(plans[0], CALL, chosen(1))
    for change in reversed(changes):
        plans[1] = change.apply(plans[1], CALL, chosen(1))
    forward, backward = (str(vars(plan)) for plan in plans)
    assert forward == backward
