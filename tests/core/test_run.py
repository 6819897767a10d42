"""A run: steps from noise levels, windows, what fired, and what two nodes say of one field."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from vdit_attention.vdit_core.edits import Change
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import AttentionPlan
from vdit_attention.vdit_core.program import Asker, Capture, Edit, Window, conflicts
from vdit_attention.vdit_core.record import Record
from vdit_attention.vdit_core.run import Operands, Run, Schedule
from vdit_attention.vdit_core.selection import every_layer, parse_selection
from vdit_attention.vdit_core.sites import Call, Layout, Site

SIGMAS = (1.0, 0.9, 0.75, 0.5, 0.0)
SITES = [Site(f"blocks.{n}.self_attn", n, "self", 2) for n in range(3)]
LAYOUT = Layout("Wan", {nn.Identity(): (site,) for site in SITES}, lambda *_: TokenGrid(1, 2, 3))


def schedule(*sigmas: float) -> Schedule:
    return Schedule(sigmas or SIGMAS, lambda percent: 1 - percent)


def edit(change: Change, layers: str = "all", name: str = "A", heads: str = "all") -> Edit:
    where = every_layer(parse_selection(layers, "layers"), parse_selection(heads, "heads"))
    return Edit(Asker(name), change, where)


def capture(layers: str = "all", steps: str = "all") -> Capture:
    where = every_layer(parse_selection(layers, "layers"), parse_selection("all", "heads"))
    return Capture(Asker("C"), where, parse_selection(steps, "steps"), Record())


def operands(value: float = 1.0) -> Operands:
    def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        return v

    x = torch.full((2, 2, 6, 4), value)
    return Operands(x, x, x, None, None, dense, lambda: TokenGrid(1, 2, 3))


def play(run: Run, sigma: float, layers: tuple[int, ...] = (0, 1, 2)) -> list[Tensor | None]:
    """One model evaluation of cond and uncond in one batch."""
    calls = [run.call(SITES[n], sigma, ("cond", "uncond"), (0, 0)) for n in layers]
    return [run.attend(call, operands()) for call in calls]


def test_each_noise_level_of_the_schedule_is_its_step() -> None:
    assert [schedule().step(s) for s in SIGMAS[:-1]] == [0, 1, 2, 3]


def test_noise_between_two_levels_belongs_to_the_step_that_is_under_way() -> None:
    assert [schedule().step(s) for s in (0.95, 0.8, 0.7, 0.1, 1e-9, 0.0)] == [0, 1, 2, 3, 3, 3]


def test_rounding_does_not_move_a_step() -> None:
    for step, sigma in enumerate(SIGMAS[:-1]):
        for nearly in (sigma * (1 + 2e-5), sigma * (1 - 2e-5)):
            assert schedule().step(nearly) == step


def test_noise_above_the_schedule_is_step_0() -> None:
    assert schedule().step(1.5) == 0


def test_a_second_evaluation_of_a_step_is_counted() -> None:
    """As heun does it: at the start of a step, then at its end, which is the next one's level."""
    run = Run((capture(),), LAYOUT, schedule(), 1)
    branches, items = ("cond",), (0,)
    calls = [run.call(SITES[0], s, branches, items) for s in (1.0, 0.9, 0.9, 0.75, 0.75, 0.5)]
    found = [(call.step, call.evaluation) for call in calls]
    assert found == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]


def test_evaluations_of_sites_and_branches_are_counted_apart() -> None:
    run = Run((capture(),), LAYOUT, schedule(), 1)
    for site in SITES:
        for branch in ("cond", "uncond"):
            assert run.call(site, 1.0, (branch,), (0,)).evaluation == 0
    assert run.call(SITES[1], 1.0, ("uncond",), (0,)).evaluation == 1


def test_windows_that_meet_share_no_step_and_miss_none() -> None:
    for cut in (0.1, 0.25, 0.3, 0.5, 0.99):
        for sigma in (*SIGMAS[:-1], 0.6, 0.01, 0.0):
            first = schedule().inside(Window(0, cut), sigma)
            second = schedule().inside(Window(cut, 1), sigma)
            assert first != second


def test_the_whole_window_holds_any_noise() -> None:
    for sigma in (0.0, 1e-6, 1.0, 1.0001, 14.6):
        assert schedule().inside(Window(), sigma)


def test_what_fired_is_reported_per_node() -> None:
    run = Run((edit(Skip(), "0,2"), capture("1", "1-2")), LAYOUT, schedule(), 1)
    for sigma in SIGMAS[:-1]:
        play(run, sigma)
    run.finish()
    assert [(asker.name, line) for asker, line in run.reports()] == [
        ("A", "changed 8 calls of 2 layers"),
        ("C", "measured 2 calls of 1 layers"),
    ]


def test_calls_without_plan_and_probe_are_left_to_the_model() -> None:
    run = Run((edit(Skip(), "1"), capture("2", "0")), LAYOUT, schedule(), 1)
    assert [out is None for out in play(run, 1.0)] == [True, False, True]


def test_a_layer_that_never_attended_is_an_error_and_seals_no_record() -> None:
    watch = capture()
    run = Run((watch,), LAYOUT, schedule(), 1)
    play(run, 1.0, layers=(0, 2))
    with pytest.raises(
        RuntimeError,
        match=r"^C: nothing happened at blocks\.1\.self_attn\. The model did not run at step 1-3\.",
    ):
        run.finish()
    with pytest.raises(ValueError, match="nothing has been captured yet"):
        _ = watch.record.data


def test_a_run_empties_the_record_before_and_seals_it_after() -> None:
    watch = capture(steps="0")
    first = Run((watch,), LAYOUT, schedule(), 1)
    play(first, 1.0)
    first.finish()
    assert len(watch.record.data.measurements) == 6
    assert watch.record.data.header.sigmas == SIGMAS
    Run((watch,), LAYOUT, schedule(), 1)
    with pytest.raises(ValueError, match="nothing has been captured yet"):
        _ = watch.record.data


def test_neutral_specs_are_not_active() -> None:
    neutral = (edit(Temperature(1.0)), edit(Skip(), "none"), capture(steps="none"), capture("none"))
    assert Run(neutral, LAYOUT, schedule(), 1).active == []


def test_measuring_can_be_cancelled_at_every_call() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    run = Run((capture(),), LAYOUT, schedule(), 1, stop)
    with pytest.raises(KeyboardInterrupt):
        play(run, 1.0)


def test_infinity_in_q_is_named_with_layer_and_step() -> None:
    run = Run((edit(Temperature(0.5)),), LAYOUT, schedule(), 1)
    call = run.call(SITES[1], 0.9, ("cond", "uncond"), (0, 0))
    with pytest.raises(ValueError, match=r"^Q of blocks\.1\.self_attn at step 1 holds NaN or inf"):
        run.attend(call, operands(float("inf")))


def test_a_pair_edit_needs_an_even_batch() -> None:
    with pytest.raises(ValueError, match=r"^A: it needs a batch of pairs .* has a batch of 3; put"):
        Run((edit(PairTransfer(1.0)),), LAYOUT, schedule(), 3)


def test_a_pair_edit_is_applied_to_targets_only() -> None:
    seen: list[Tensor] = []

    class Noted(PairTransfer):
        def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
            seen.append(chosen)
            return super().apply(plan, call, chosen)

    run = Run((edit(Noted(1.0), heads="1"),), LAYOUT, schedule(), 2)
    run.attend(run.call(SITES[0], 1.0, ("cond", "cond"), (0, 1)), operands())
    assert [chosen.tolist() for chosen in seen] == [[[False, False], [False, True]]]


def test_a_pair_edit_does_not_fire_in_a_call_without_targets() -> None:
    run = Run((edit(PairTransfer(1.0)),), LAYOUT, schedule(), 2)
    assert run.attend(run.call(SITES[0], 1.0, ("cond",), (0,)), operands()) is None
    assert run.fired[run.active[0]].total() == 0


OTHERS = {
    "temperatures multiply": (edit(Temperature(0.5)), edit(Temperature(2.0), name="B")),
    "gates multiply": (edit(Skip()), edit(Skip(), name="B")),
    "other fields": (edit(Temperature(0.5)), edit(Perturb("uniform", 0.5), name="B")),
    "other layers": (edit(Perturb("identity", 1), "0"), edit(Perturb("uniform", 1), "1", "B")),
    "other heads": (
        edit(Perturb("identity", 1), heads="0"),
        edit(Perturb("uniform", 1), name="B", heads="1"),
    ),
    "a neutral one before": (edit(Perturb("identity", 0)), edit(Perturb("uniform", 1), name="B")),
    "a neutral one after": (edit(Perturb("identity", 1)), edit(Perturb("uniform", 0), name="B")),
}


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_is_said_where_nothing_is_overruled(name: str) -> None:
    first, second = OTHERS[name]
    assert conflicts((first,), second, LAYOUT) == []


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        (Perturb("identity", 1), Perturb("uniform", 0.5), "map"),
        (PairTransfer(1.0), PairTransfer(0.5), "source"),
    ],
)
def test_both_nodes_say_who_overrules_whom(first: Change, second: Change, field: str) -> None:
    old, new = edit(first, "0-1"), edit(second, "1-2", "B")
    found = [(asker.name, text) for asker, text in conflicts((capture(), old), new, LAYOUT)]
    assert found == [
        ("A", f"overruled in layers 1: a later node sets {field}"),
        ("B", f"overrules an earlier node's {field} in layers 1"),
    ]


def test_nothing_is_said_of_two_edits_that_never_meet_in_branch_or_time() -> None:
    old, new = edit(Perturb("identity", 1)), edit(Perturb("uniform", 1), name="B")
    assert conflicts((replace(old, branch="cond"),), replace(new, branch="uncond"), LAYOUT) == []
    early, late = Window(0.0, 0.5), Window(0.5, 1.0)
    assert conflicts((replace(old, window=early),), replace(new, window=late), LAYOUT) == []
    assert conflicts((replace(old, branch="cond"),), new, LAYOUT) != []
    assert conflicts((replace(old, window=early),), new, LAYOUT) != []
