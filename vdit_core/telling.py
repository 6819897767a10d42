"""What a run says when it is over: what each spec did, or why it did nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .edits.flatten import Flatten
from .program import Capture, Edit, Keep, Spec
from .sites import Site, in_runs

if TYPE_CHECKING:
    from .run import Run

VERBS: dict[type[Spec], str] = {Capture: "measured", Edit: "changed", Keep: "kept"}


def what_it_did(run: Run, spec: Spec) -> str:
    """What there is to say to the node that asked."""
    sites = run.fired[spec]
    layers = len({site.layer for site in sites})
    line = f"{VERBS[type(spec)]} {sites.total()} calls of {layers} layers"
    if skipped := _skipped(run, spec):
        line += f"; the model did not run at {skipped} (step caches skip steps)"
    if isinstance(spec, Edit):
        line += _found(run, spec)
    if isinstance(spec, Capture) and (before := run.recorders[spec].earlier):
        line += f"; its steps follow {before.header.steps} of the record before"
    return line


def why_it_did_nothing(run: Run, spec: Spec, missing: Sequence[Site]) -> str:
    """For the error where a spec never fired. missing: where."""
    where = ", ".join(site.name for site in missing)
    seen = ", ".join(sorted(run.branches)) or "no"
    skipped = _skipped(run, spec)
    ran = f" The model did not run at {skipped}." if skipped else ""
    return (
        f"{spec.asker.name}: nothing happened at {where}.{ran} The sampler made {seen} calls, "
        f"this node wants branch {spec.branch!r} (with cfg 1 there is no uncond call). If that "
        "is not it, another node replaces these layers or skips these steps (step caches do); "
        "take it out, or choose other layers or steps"
    )


def _found(run: Run, edit: Edit) -> str:
    """Where an edit acted, if that was not given, and with which numbers it found; lines."""
    lines = [edit.remark if edit.ranked is None else run.choosing.report(edit)]
    if isinstance(edit.change, Flatten):
        lines.append(run.flattened.report(edit, run.acting(edit)))
    told = "".join(f"\n{line}" for line in lines if line)
    if edit.change.field == "threshold":
        told += run.thinned.report(run.fired[edit])
    return told


def _skipped(run: Run, spec: Spec) -> str:
    """Words for those of a spec's steps at which the model was not evaluated; none: empty."""
    if isinstance(spec, Capture):
        wanted = [*run.recorders[spec].steps]
    else:
        sigmas = enumerate(run.schedule.sigmas[: run.schedule.steps])
        wanted = [n for n, sigma in sigmas if run.schedule.inside(spec.window, sigma)]
    labels = run.clock.labels()
    ran = {labels[evaluation][0] for evaluation in run.ran}
    missing = [n for n in wanted if n not in ran]
    return f"step {in_runs(missing)}" if missing else ""
