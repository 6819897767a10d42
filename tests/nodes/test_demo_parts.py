"""The demo's parts without a server: checks, the page, the report, and how a folder is replaced."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from vdit_attention.benchmarks import checks, demo, report
from vdit_attention.benchmarks.chapters import CHAPTERS
from vdit_attention.benchmarks.checks import Check, at_least, at_most
from vdit_attention.benchmarks.gallery import number, render, table
from vdit_attention.benchmarks.readings import compared
from vdit_attention.benchmarks.report import (
    Failure,
    FolderInUse,
    Outcome,
    Picture,
    Report,
    check_folder,
    publish,
)
from vdit_attention.benchmarks.sections import SECTIONS

COMPARISON = """a and b: 17 frames of 64 × 64 pixels

                            video    worst  at frame
PSNR (dB)                   13.48    10.77        12
SSIM (1 = alike)           0.5520   0.4491         7
"""


def small_report() -> Report:
    """One chapter with two videos and a sheet, a grid of numbers, a number without a limit."""
    webp, png = b"RIFF a video", b"\x89PNG a sheet"
    pictures = [
        Picture("Source video", "toy_transfer_0.webp", webp),
        Picture("Edited <video>", "toy_transfer_1.webp", webp),
        Picture("Source against edit", "toy_transfer_2.png", png),
    ]
    numbers = [
        at_most("temperature: float32", 1.25, 2.0, "× plain torch", "a note"),
        at_most("temperature: bfloat16", 0.5, 2.0, "× plain torch"),
        at_most("transfer: float32", 1.5, 2.0, "× plain torch"),
        at_most("transfer: bfloat16", 0.125, 2.0, "× plain torch"),
        at_least("colour", 0.96875, 0.95, "share"),
        Check("something new", 12345.0, "s"),
    ]
    groups = ["exactness"] * 4 + ["toy_world", "in no section"]
    found = [c.to_json() | {"group": g} for c, g in zip(numbers, groups, strict=True)]
    outcome = Outcome("toy_transfer", pictures, {"In numbers": "PSNR"})
    return Report({"Machine": "a small one"}, [outcome], found)


def test_checks_know_their_limits() -> None:
    assert at_most("a", 2.0, 2.0).ok and not at_most("a", 2.1, 2.0).ok
    assert at_least("a", 2.0, 2.0).ok and not at_least("a", 1.9, 2.0).ok
    assert not at_most("a", float("nan"), 2.0).ok and not at_least("a", float("nan"), 2.0).ok
    assert Check("a", 5.0).ok
    assert at_most("a", float("inf"), 2.0).to_json()["value"] is None


def test_checks_have_the_promised_fields() -> None:
    found = at_most("a", 1.0, 2.0, "MB").to_json()
    assert {"name", "value", "unit", "limit", "ok"} <= set(found)


def test_a_study_is_run_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[list[str]] = []

    class Done:
        returncode, stdout, stderr = 1, "what it said", "why it ended"

    def run(command: list[str], **_: Any) -> Done:
        commands.append(command)
        return Done()

    monkeypatch.setattr(checks.subprocess, "run", run)
    with pytest.raises(
        checks.StudyFailed, match=r"(?s)exactness ended with status 1.*why it ended"
    ):
        checks.run_apart("exactness", quick=True)
    assert "--quick" in commands[0] and commands[0][1:3] == ["-m", f"{checks.PACKAGE}.checks"]


def test_every_study_has_a_place_in_the_gallery() -> None:
    assert set(checks.study_names()) <= {section.study for section in SECTIONS}
    assert set(demo.TOY_WORKFLOWS) == {chapter.workflow for chapter in CHAPTERS}


def test_every_number_of_the_page_is_in_the_report() -> None:
    made = small_report()
    page = render(made)
    cells = re.findall(r"<td[^>]*>\s*(?:[≤≥] )?([−\d.,]+)[ <]", page)
    known = [c["value"] for c in made.checks] + [c["limit"] for c in made.checks]
    assert len(cells) >= len(made.checks)
    assert set(cells) <= {number(value) for value in known}
    for value in made.summary().values():
        assert value in json.dumps(made.to_json())


def test_the_page_holds_everything_and_needs_nothing() -> None:
    page = render(small_report())
    assert page.count("data:image/webp;base64,") == 2 and page.count("data:image/png;base64,") == 1
    assert not re.findall(r'(?:src|href)="(?!data:|report\.json|#)', page)
    links = re.findall(r'href="#([^"]+)"', page)
    assert len(links) == 2 and all(f'id="{link}"' in page for link in links)
    assert "Edited &lt;video&gt;" in page and "Toy results" in page and "a small one" in page
    assert "something new" in page and "in no section" in page


def test_names_with_a_colon_make_a_grid() -> None:
    made = small_report()
    grid = table([c for c in made.checks if c["group"] == "exactness"])
    assert grid.count("<tr>") == 3 and "float32" in grid and "≤ 2" in grid
    without = table(made.checks[:3])  # a cell is missing
    assert without.count("<tr>") == 4


def test_a_broken_limit_is_marked() -> None:
    broken = at_most("size", 3.0, 2.0, "MB").to_json() | {"group": "memory"}
    made = Report({}, [], [broken])
    assert "✗" in render(made) and not made.ok


def test_a_failure_is_on_the_page_and_in_the_report(tmp_path: Path) -> None:
    made = small_report()
    assert demo.conclude(made, tmp_path) == 0
    made.failures.append(Failure("workflow toy_perturb", "node 6 (VDiTPerturb): layers: <no>"))
    assert demo.conclude(made, tmp_path) == 1
    assert "node 6 (VDiTPerturb): layers: &lt;no&gt;" in render(made)
    assert made.to_json()["failures"] and not made.to_json()["ok"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (3.0, "3"),
        (-2.0, "−2"),
        (0.96875, "0.969"),
        (12345.6, "12,346"),
        (3.98e-7, "3.98 · 10<sup>−7</sup>"),
    ],
)
def test_numbers_for_people(value: float | None, text: str) -> None:
    assert number(value) == text


def test_reads_the_numbers_of_a_comparison() -> None:
    found = {
        c.name: c.value for c in compared("toy", "Source against edit, in numbers", COMPARISON)
    }
    assert found == {
        "toy, Source against edit: PSNR": 13.48,
        "toy, Source against edit: SSIM": 0.552,
    }


def test_publishes_all_files(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "gallery"
    publish(small_report(), "<html>", folder)
    assert (folder / "index.html").read_text("utf-8") == "<html>"
    told = json.loads((folder / "report.json").read_text("utf-8"))
    files = [p["file"] for w in told["workflows"] for p in w["pictures"]]
    assert len(files) == 3 and all((folder / file).is_file() for file in files)
    assert [p.name for p in folder.parent.iterdir()] == ["gallery"]


def test_replaces_an_earlier_gallery_whole(tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    publish(small_report(), "first", folder)
    (folder / "media" / "left over.png").touch()
    publish(Report({}), "second", folder)
    assert (folder / "index.html").read_text("utf-8") == "second"
    assert not list((folder / "media").iterdir())
    assert [p.name for p in tmp_path.iterdir()] == ["gallery"]


def test_keeps_what_a_benchmark_has_left(tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    folder.mkdir()
    (folder / "bench.json").write_text("{}", "utf-8")
    for page in ("first", "second"):
        publish(small_report(), page, folder)
        assert (folder / "bench.json").read_text("utf-8") == "{}"
        assert (folder / "index.html").read_text("utf-8") == page


def test_a_publication_that_breaks_leaves_the_old_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gallery"
    publish(small_report(), "first", folder)

    def no_space(*_: object, **__: object) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr(report.json, "dumps", no_space)
    with pytest.raises(OSError, match="no space"):
        publish(Report({}), "second", folder)
    assert (folder / "index.html").read_text("utf-8") == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["gallery"]


def test_never_replaces_what_is_no_gallery(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FolderInUse, match="no demo has written"):
        check_folder(tmp_path)
    with pytest.raises(FolderInUse, match="is a file"):
        check_folder(tmp_path / "thesis.txt")
    assert demo.main(["--out", str(tmp_path)]) == 1
    assert (tmp_path / "thesis.txt").exists()
