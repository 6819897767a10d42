"""The whole loop on the toy model: run every toy workflow in the real ComfyUI, then all studies.

    python3 dev.py demo [--out DIR] [--quick | --full]

The studies that sample for minutes get few samples, or the demo would take half an hour; --full
gives them all theirs, --quick few to the others too.

It leaves a gallery, index.html to open and report.json to read by machine, and ends with status 1
if a workflow or a study failed or a number does not keep to its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .build_workflows import FOLDER, WORKFLOWS
from .chapters import CHAPTERS
from .checks import Check, StudyFailed, run_apart, study_names
from .client import Progress, ServerProblem, WorkflowFailed
from .facts import gather_facts
from .gallery import render
from .readings import RECORD, compared, entropies
from .report import Failure, FolderInUse, Outcome, Picture, Report, check_folder, publish
from .server import ComfyServer
from .workflow_api import Json, WorkflowError, to_prompt

DESCRIPTION = "Run the whole loop on the toy model and leave a gallery."
TIMED = "cost"  # its numbers are times, which other work would spoil
LONG = (  # in the order in which they begin
    "toy_world",
    "transfer_near",
    "transfer_far",
    "entropy_edit",
    "enhance",
    "footage",
    "perturb",
    "sinks",
    "sensitivity",
    "recorded",
    "words",
    TIMED,
)
TOY_WORKFLOWS = [name for name in WORKFLOWS if name.startswith("toy_")]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="dev.py demo", description=DESCRIPTION)
    parser.add_argument("--out", type=Path, default=Path("gallery"), help="folder of the gallery")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="few samples in all studies")
    size.add_argument("--full", action="store_true", help="all samples in the long studies too")
    options = parser.parse_args(arguments)
    folder: Path = options.out.resolve()
    try:
        check_folder(folder)
        flag = "--quick" if options.quick else "--full" if options.full else ""
        report = make_report(flag)
        publish(report, render(report), folder)
    except (FolderInUse, ServerProblem) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return conclude(report, folder)


def make_report(flag: str) -> Report:
    """Run everything; what fails is in the report. flag: --quick, --full or empty."""
    began = time.monotonic()
    print("Starting ComfyUI ...", flush=True)
    with ComfyServer() as server:
        report = Report(gather_facts(server, flag))
        schemas = server.object_info()
        for name in TOY_WORKFLOWS:
            run_workflow(server, name, schemas, report)
    measure_all(flag, report)
    report.facts["Time"] = f"{time.monotonic() - began:.0f} s in all"
    return report


def run_workflow(server: ComfyServer, name: str, schemas: Json, report: Report) -> None:
    """Run one workflow, for each prompt of its chapter; what it makes goes into the report."""
    workflow = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    prompts = next((c.prompts for c in CHAPTERS if c.workflow == name), ())
    began = time.monotonic()
    outcome = Outcome(name)
    try:
        prompt = to_prompt(workflow, schemas)
        for text in prompts or (None,):
            collect(server, queue(server, name, prompt, text), prompt, text, outcome)
    except (WorkflowFailed, WorkflowError, TimeoutError) as problem:
        log = getattr(problem, "traceback", "")
        report.failures.append(Failure(f"workflow {name}", f"{problem}\n{log}".strip()))
        say(f"{name:24} FAILED: {problem}")
        return
    seconds = time.monotonic() - began
    say(f"{name:24} {seconds:6.1f} s{'':30}")
    report.outcomes.append(outcome)
    found = [Check(name, seconds, "s", group="workflows")]
    found += [c for title, text in outcome.texts.items() for c in compared(name, title, text)]
    if name == "toy_attention_maps":
        found += entropies(server.view(RECORD, "vdit"))
    report.checks += [check.to_json() for check in found]


def queue(server: ComfyServer, name: str, prompt: Json, text: str | None) -> Json:
    """Run a prompt, with another text in its node “Prompt” if given; its outputs by node."""
    for node in prompt.values():
        if text is not None and node["_meta"]["title"] == "Prompt":
            node["inputs"]["text"] = text
    return server.run(prompt, lambda progress: show_progress(name, prompt, progress))


def show_progress(name: str, prompt: Json, progress: Progress) -> None:
    """Overwrite the line of a running workflow; nothing where the output is no terminal."""
    if sys.stdout.isatty():
        title = prompt.get(progress.node, {}).get("_meta", {}).get("title", "")
        line = f"{title} {progress.value:.0f}/{progress.maximum:.0f}"
        print(f"\r{name:24} {line:36.36}", end="", flush=True)


def collect(
    server: ComfyServer, outputs: Json, prompt: Json, text: str | None, outcome: Outcome
) -> None:
    """Fetch pictures and texts in the order of their nodes; previews only of what is not saved.

    text: the title of everything, if this run was for that prompt.
    """
    images: dict[str, Json] = {}
    for node in sorted(outputs, key=int):
        title = text or prompt[node]["_meta"]["title"]
        for image in outputs[node].get("images", []):
            if title not in images or image["type"] == "output":
                images[title] = image
        if said := outputs[node].get("text"):
            outcome.texts[title] = "\n".join(map(str, said))
    for title, image in images.items():
        file = f"{outcome.workflow}_{len(outcome.pictures)}{Path(image['filename']).suffix}"
        outcome.pictures.append(Picture(title, file, server.view(**image)))


def measure_all(flag: str, report: Report) -> None:
    """Run the studies side by side, one core each; the one that takes times runs alone, last."""
    others = [name for name in study_names() if name != TIMED]
    others.sort(key=lambda name: LONG.index(name) if name in LONG else len(LONG))
    say(f"studies: {', '.join([*others, TIMED])} ...")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda name: measure(name, flag, report), others))
    measure(TIMED, flag, report)


def measure(name: str, flag: str, report: Report) -> None:
    """Run one study in a process of its own and put its numbers into the report."""
    try:
        quick = flag == "--quick" or (name in LONG and flag != "--full")
        checks, seconds = run_apart(name, quick)
    except StudyFailed as problem:
        report.failures.append(Failure(f"study {name}", str(problem)))
        say(f"{'study ' + name:24} FAILED: {problem}")
        return
    report.checks += checks
    outside = [check["name"] for check in checks if not check["ok"]]
    result = f"{len(checks)} numbers" + (f", {len(outside)} outside their limits" * bool(outside))
    say(f"{'study ' + name:24} {seconds:6.1f} s  {result}")


def say(line: str) -> None:
    """Print a line, in a terminal over the progress that stands there."""
    print("\r" * sys.stdout.isatty() + line, flush=True)


def conclude(report: Report, folder: Path) -> int:
    """Say where the gallery is and what is wrong with it."""
    broken: list[dict[str, Any]] = [check for check in report.checks if not check["ok"]]
    for check in broken:
        limit = f"{check['bound']} {check['limit']}"
        print(f"outside its limit: {check['name']}: {check['value']} {check['unit']}, not {limit}")
    for failure in report.failures:
        print(f"failed: {failure.what}: {failure.message.splitlines()[0]}")
    print(f"\nThe gallery is at {(folder / 'index.html').as_uri()}")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
