"""A run: what fired, what is refused, what is kept, and what two nodes say of one field."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from vdit_attention.vdit_core.attention import attend
from vdit_attention.vdit_core.edits import Change
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.sparsity import Sparsify
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.operands import Operands
from vdit_attention.vdit_core.plan import AttentionPlan, Blocks, Threshold
from vdit_attention.vdit_core.program import Asker, Capture, Edit, Window, conflicts
from vdit_attention.vdit_core.record import Record
from vdit_attention.vdit_core.run import Run
from vdit_attention.vdit_core.selection import parse_selection, parse_where
from vdit_attention.vdit_core.sites import Call, Layout, Site
from vdit_attention.vdit_core.steps import Schedule

SIGMAS = (1.0, 0.9, 0.75, 0.5, 0.0)
SITES = [Site(f"blocks.{n}.self_attn", n, "self", 2) for n in range(3)]
LAYOUT = Layout("Wan", {nn.Identity(): (site,) for site in SITES}, lambda *_: TokenGrid(1, 2, 3))


def schedule(*sigmas: float) -> Schedule:
    return Schedule(sigmas or SIGMAS, lambda percent: 1 - percent)


def edit(change: Change, layers: str = "all", name: str = "A", heads: str = "all") -> Edit:
    return Edit(Asker(name), change, parse_where(layers, heads))


def capture(layers: str = "all", steps: str = "all") -> Capture:
    where, at = parse_where(layers, "all"), parse_selection(steps, "steps")
    return Capture(Asker("C"), where, at, Record())


def operands(value: float = 1.0) -> Operands:
    def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        return v

    x = torch.full((2, 2, 6, 4), value)
    return Operands(x, x, x, None, None, dense, lambda: TokenGrid(1, 2, 3))


def play(run: Run, sigma: float, layers: tuple[int, ...] = (0, 1, 2)) -> list[Tensor | None]:
    """One model evaluation of cond and uncond in one batch."""
    run.clock.evaluate(sigma)
    calls = [run.call(SITES[n], ("cond", "uncond"), (0, 0)) for n in layers]
    return [run.attend(call, operands()) for call in calls]


def test_a_capture_keeps_the_steps_that_were_asked_for_whatever_the_noise_level() -> None:
    """As heun does it: at the start of a step, then at its end, which is the next one's level."""
    run = Run((wanted := capture("1", "1"),), LAYOUT, schedule(), 1)
    for step in range(4):
        play(run, SIGMAS[step])
        run.clock.call_back(step)
        if step < 3:
            play(run, SIGMAS[step + 1])
    run.finish()
    found = [(m.step, m.evaluation, m.sigma) for m in wanted.record.data.measurements]
    assert found == [(1, 0, 0.9)] * 2 + [(1, 1, 0.75)] * 2
    assert run.reports() == [(Asker("C"), "measured 2 calls of 1 layers")]


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
    run.clock.evaluate(0.9)
    call = run.call(SITES[1], ("cond", "uncond"), (0, 0))
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
    run.clock.evaluate(1.0)
    run.attend(run.call(SITES[0], ("cond", "cond"), (0, 1)), operands())
    assert [chosen.tolist() for chosen in seen] == [[[False, False], [False, True]]]


def test_a_pair_edit_does_not_fire_in_a_call_without_targets() -> None:
    run = Run((edit(PairTransfer(1.0)),), LAYOUT, schedule(), 2)
    run.clock.evaluate(1.0)
    assert run.attend(run.call(SITES[0], ("cond",), (0,)), operands()) is None
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


def test_edits_of_two_regions_do_not_overrule_each_other() -> None:
    old, new = edit(PairTransfer(1.0)), edit(PairTransfer(1.0, "video→video"), name="B")
    assert conflicts((old,), new, JOINT) == []
    assert conflicts((new,), new, JOINT) != []


VIDEO = "video→video"
JOINT_GRID = TokenGrid(1, 2, 3, prefix=2, suffix=3)
JOINT_SITES = [Site(f"blocks.{n}.attn", n, "joint", 2) for n in range(3)]
JOINT = Layout("Mochi", {nn.Identity(): (site,) for site in JOINT_SITES}, lambda *_: JOINT_GRID)


@pytest.mark.parametrize(
    "change",
    [
        Temperature(0.5, VIDEO),
        Skip(VIDEO),
        Perturb("uniform", 0.5, VIDEO),
        PairTransfer(1.0, VIDEO),
        Sparsify((0.5,) * 3, region=VIDEO),
    ],
)
def test_a_region_that_the_model_lacks_is_refused_before_sampling(change: Change) -> None:
    wanted = (
        "^A: region video→video needs a model in which video and text attend together, but the "
        "self-attention of Wan holds video only; choose region all$"
    )
    with pytest.raises(ValueError, match=wanted):
        Run((edit(change),), LAYOUT, schedule(), 2)
    assert Run((edit(change),), JOINT, schedule(), 2).active


def test_an_unknown_region_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^region: got 'video', allowed are all, video→video$"):
        edit(Skip("video"))


@pytest.mark.parametrize(
    ("outer", "what"),
    [(Sparsify((0.5,) * 3), "sparsity"), (PairTransfer(0.5), "a transfer in part")],
)
def test_what_cannot_act_beside_a_region_is_refused_before_sampling(
    outer: Change, what: str
) -> None:
    inner, beside = edit(Skip(VIDEO), "0-1"), edit(outer, "1-2", "B")
    for program in ((inner, beside), (beside, inner)):
        with pytest.raises(ValueError, match=rf"^A: .* with {what} in region all \(B, layers 1\)"):
            Run(program, JOINT, schedule(), 2)
    Run((inner, edit(outer, "2", "B")), JOINT, schedule(), 2)
    Run((replace(inner, branch="cond"), replace(beside, branch="uncond")), JOINT, schedule(), 2)


def joint_operands(seed: int) -> Operands:
    def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        return attend(q, k, v, AttentionPlan(temperature=torch.full(q.shape[:2], temperature)))

    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 2, len(JOINT_GRID), 4, generator=generator) for _ in range(3))
    return Operands(q, k, v, None, None, dense, lambda: JOINT_GRID)


def played(run: Run, sigma: float, seed: int) -> Tensor:
    run.clock.evaluate(sigma)
    call = run.call(JOINT_SITES[0], ("cond", "uncond"), (0, 0))
    out = run.attend(call, joint_operands(seed))
    assert out is not None
    return out


def thinned(seed: int, threshold: Threshold) -> Tensor:
    x = joint_operands(seed)
    plan = AttentionPlan(video=AttentionPlan(threshold=threshold)).placed(JOINT_GRID.video)
    return attend(x.q, x.k, x.v, plan, implementation="streaming")


RATES = torch.full((2, 2), 0.5, dtype=torch.float64)


def test_two_runs_take_the_thresholds_of_the_video_alone() -> None:
    change = Sparsify((0.5,) * 3, "exact two-run", False, region=VIDEO)
    run = Run((edit(change, "0"),), JOINT, schedule(), 1)
    run.clock.evaluate(1.0)
    with run.rehearsal():
        call = run.call(JOINT_SITES[0], ("cond", "uncond"), (0, 0))
        assert run.attend(call, joint_operands(1)) is None
    x = joint_operands(1)
    video = JOINT_GRID.video
    weights = (x.q[:, :, video] @ x.k[:, :, video].mT / 2).softmax(-1).flatten(2).sort().values
    threshold = Threshold(RATES, False, weights[..., 18].double() * (1 - 1e-6))
    torch.testing.assert_close(played(run, 1.0, 2), thinned(2, threshold))


def test_blocks_of_the_video_serve_for_some_steps() -> None:
    change = Sparsify((0.5,) * 3, "block", block_size=2, reuse=2, region=VIDEO)
    run = Run((edit(change, "0"),), JOINT, schedule(), 1)
    first, second, third = (played(run, s, n) for n, s in enumerate(SIGMAS[:3]))

    def fresh(seed: int) -> Tensor:
        return thinned(seed, Threshold(RATES, blocks=Blocks(2)))

    torch.testing.assert_close(first, fresh(0))
    assert not torch.allclose(second, fresh(1))
    torch.testing.assert_close(third, fresh(2))
    assert "layer 0: asked 50.0%, dropped" in run.reports()[0][1]


def test_a_capture_sees_the_map_as_a_region_made_it() -> None:
    watch = capture("0", "0")
    run = Run((edit(Perturb("identity", 1.0, VIDEO), "0"), watch), JOINT, schedule(), 1)
    played(run, 1.0, 3)
    run.finish()
    pooled = watch.record.data.measurements[0].measures.pooled_map
    assert pooled.shape == (2, 6, 6)
    assert bool((pooled[:, ~torch.eye(6, dtype=torch.bool)] == 0).all())
    assert bool((pooled.diagonal(dim1=1, dim2=2) > 0).all())
