"""What a demo run leaves: pictures, numbers, failures; and putting it in a folder all at once."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPORT = "report.json"
# What `dev.py bench` leaves in the same folder.
BENCHMARK = ("bench.json", "bench_facts.json", "bench.png")


class FolderInUse(RuntimeError):
    """The folder for the gallery holds something else."""


@dataclass(frozen=True)
class Picture:
    """A picture or a looping video that a workflow has made."""

    title: str
    file: str
    data: bytes = field(repr=False)

    @property
    def kind(self) -> str:
        return "image/" + Path(self.file).suffix.lstrip(".")


@dataclass(frozen=True)
class Outcome:
    """A workflow that has run. texts: what its nodes say, by title."""

    workflow: str
    pictures: list[Picture] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A workflow or a study that did not come to its end."""

    what: str
    message: str


@dataclass
class Report:
    """Everything of one run. facts: the machine, the versions, the command; checks: as JSON."""

    facts: dict[str, str]
    outcomes: list[Outcome] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failures and all(check["ok"] for check in self.checks)

    def pictures(self) -> list[Picture]:
        return [picture for outcome in self.outcomes for picture in outcome.pictures]

    def summary(self) -> dict[str, str]:
        """The few numbers on top of the gallery."""
        limited = [check for check in self.checks if check["limit"] is not None]
        kept = sum(check["ok"] for check in limited)
        return {
            "workflows run": f"{len(self.outcomes)}",
            "numbers measured": f"{len(self.checks)}",
            "keep to their limits": f"{kept} of {len(limited)}",
        }

    def to_json(self) -> dict[str, Any]:
        """What stands in report.json."""
        return {
            "ok": self.ok,
            "summary": self.summary(),
            "label": "toy results",
            "facts": self.facts,
            "checks": self.checks,
            "workflows": [_outcome_json(outcome) for outcome in self.outcomes],
            "failures": [vars(failure) for failure in self.failures],
        }


def publish(report: Report, page: str, folder: Path) -> None:
    """Write index.html, report.json and media/ beside `folder`, then put them in its place.

    A benchmark's files are taken along.

    Raises FolderInUse, before anything is written, where `folder` holds no earlier gallery.
    """
    check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        (new / "media").mkdir(parents=True)
        for picture in report.pictures():
            (new / "media" / picture.file).write_bytes(picture.data)
        text = json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        (new / REPORT).write_text(text + "\n", "utf-8")
        (new / "index.html").write_text(page, "utf-8")
        for name in BENCHMARK:
            if (folder / name).is_file():
                shutil.copy2(folder / name, new / name)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Raise FolderInUse unless a gallery may be written here: it replaces the whole folder."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FolderInUse(f"--out {folder} is a file; name a folder")
    others = {path.name for path in folder.iterdir()}.difference(BENCHMARK)
    if others and REPORT not in others:
        raise FolderInUse(
            f"--out {folder} holds files that no demo has written; name an empty or a new folder"
        )


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    pictures = [{"title": p.title, "file": f"media/{p.file}"} for p in outcome.pictures]
    return {"name": outcome.workflow, "pictures": pictures, "texts": outcome.texts}
