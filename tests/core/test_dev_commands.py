"""dev.py: its commands beside the installation: clean, demo, bench, matrix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

REPO = Path(__file__).resolve().parents[2]


def test_clean_removes_what_was_installed_and_keeps_what_users_made(
    dev: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    comfyui, older = (dev.pinned_comfyui_folder(version) for version in ("0.30.0", "0.18.2"))
    for folder in (comfyui, older):
        folder.mkdir(parents=True)
        (folder / "requirements.txt").touch()
    environments = [dev.environment_folder(one, comfyui) for one in (comfyui, older)]
    for environment in environments:
        environment.mkdir()
        dev.log_of(environment).touch()
    link = dev.link_pack() / "vdit_attention"
    picture = dev.work_folder() / "ui" / "output" / "picture.png"
    picture.parent.mkdir(parents=True)
    picture.touch()
    assert dev.main(["clean"]) == 0
    said = capsys.readouterr().out
    for gone in (comfyui, older, *environments, link):
        assert not gone.exists() and f"removed {gone}" in said
    assert picture.exists() and f"kept    {dev.work_folder() / 'ui'}" in said
    assert REPO.exists()


def test_clean_without_an_installation_removes_nothing(dev: ModuleType) -> None:
    assert dev.main(["clean"]) == 0
    assert REPO.exists()


def test_finds_the_named_browser(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VDIT_BROWSER", str(tmp_path / "missing"))
    with pytest.raises(dev.Problem, match="no such file"):
        dev.find_browser(None)
    (tmp_path / "missing").touch()
    assert dev.find_browser(None) == tmp_path / "missing"


def test_no_browser_is_an_error_that_says_how_to_get_one(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise dev.Problem("no network")

    monkeypatch.setattr(dev, "find_browser", lambda environment: None)
    monkeypatch.setattr(dev, "run_logged", fail)
    environment = dev.Environment(Path(sys.executable), REPO, REPO)
    with pytest.raises(dev.Problem, match="apt install chromium"):
        dev.install_browser(environment)


def test_the_repository_is_never_on_the_path(dev: ModuleType, tmp_path: Path) -> None:
    """Else our `nodes` folder would hide ComfyUI's `nodes` module."""
    code = (
        "import importlib.util as u, sys; print(u.find_spec('nodes').origin, *sys.path, sep='\\n')"
    )
    command = [*dev.Environment(Path(sys.executable), tmp_path, tmp_path).command(["-c", code])]
    answer = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    module, *path = answer.stdout.splitlines()
    assert Path(module).name == "nodes.py"
    assert str(REPO) not in path and "" not in path


@pytest.mark.parametrize("given", [[], ["--json", "mine.json"], ["--json=mine.json"]])
def test_bench_lets_torch_use_every_core(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    ran: list[tuple[list[str], dict[str, str]]] = []

    def run(arguments: list[str], **variables: str) -> int:
        ran.append((arguments, variables))
        return 0

    monkeypatch.setattr(dev, "set_up", lambda: SimpleNamespace(run=run))
    assert dev.main(["bench", "--quick", *given]) == 0
    ((arguments, variables),) = ran
    usual = ["--json", str(REPO / "gallery" / "bench.json")]
    assert arguments[:2] == ["-m", "vdit_attention.benchmarks.bench"]
    assert arguments[2:] == [*([] if given else usual), "--quick", *given]
    assert "OMP_NUM_THREADS" not in variables


def test_an_older_comfyui_has_an_environment_upon_the_newest_ones(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, above = tmp_path / "env-base", tmp_path / "env-above"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", base], check=True)
    (next(base.rglob("site-packages")) / "only_below.py").touch()
    ran: list[list[str]] = []

    def run(command: list[str | Path], *_: object) -> None:
        ran.append([str(word) for word in command])
        if "venv" in command:
            subprocess.run(command, check=True)

    monkeypatch.setattr(dev, "run_logged", run)
    dev.install_difference(tmp_path, base, above, 0)
    subprocess.run([dev.python_in(above), "-c", "import only_below"], check=True)
    pip = ran[-1]  # of the environment below, for the one above, with torch as it is below
    assert pip[:4] == [str(dev.python_in(base)), "-m", "pip", "--python"]
    assert pip[4:6] == [str(dev.python_in(above)), "install"] and set(dev.TORCH) < set(pip)
    assert pip[-1] == str(tmp_path / "requirements.txt")


REPORT = '<all><testsuite tests="{}" skipped="{}" failures="{}" errors="{}"/></all>'


@pytest.fixture
def tested(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What `matrix` has pytest run: version and arguments. 0.24.0 fails; 0.18.2 does not start."""
    runs: list[tuple[str, list[str]]] = []

    def set_up(version: str = "") -> SimpleNamespace:
        comfyui, _ = dev.comfyui_folders(version)
        comfyui.mkdir(parents=True, exist_ok=True)
        (comfyui / "comfyui_version.py").write_text(f'__version__ = "{version or "own"}"')
        return SimpleNamespace(comfyui=comfyui, run=lambda *_, **__: run(version or "own", *_))

    def run(version: str, command: list[str]) -> int:
        runs.append((version, command))
        report = next(word for word in command if word.startswith("--junitxml=")).partition("=")[2]
        counts = {"0.24.0": (20, 1, 2, 3), "0.18.2": None}.get(version, (20, 1, 0, 0))
        if counts:
            Path(report).write_text(REPORT.format(*counts))
        return {"0.24.0": 1, "0.18.2": 4}.get(version, 0)

    monkeypatch.setattr(dev, "set_up", set_up)
    monkeypatch.setattr(dev, "find_browser", lambda environment: Path("browser"))
    return runs


def test_the_matrix_runs_the_tests_against_every_version(
    dev: ModuleType, tested: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dev.main(["matrix"]) == 4
    assert [version for version, _ in tested] == list(dev.PINNED)
    for _, command in tested:
        assert command[-2:] == [str(REPO / "tests" / "nodes"), str(REPO / "tests" / "browser")]
    said = capsys.readouterr().out
    assert "| 0.30.0 | 19 | 0 | 1 |\n" in said
    assert "| 0.24.0 | 14 | 5 | 1 |\n" in said
    assert "| 0.18.2 | ? | ? | ? |\n" in said


def test_the_matrix_takes_versions_and_then_what_pytest_takes(
    dev: ModuleType, tested: list[tuple[str, list[str]]]
) -> None:
    here = str(REPO / "tests" / "core")
    assert dev.main(["matrix", "0.30.0", "0.27.0", "-k", "1.5", here]) == 0
    assert [version for version, _ in tested] == ["0.30.0", "0.27.0"]
    assert all(command[-3:] == ["-k", "1.5", here] for _, command in tested)


def test_the_matrix_of_a_comfyui_of_ones_own_is_one_row(
    dev: ModuleType,
    tested: list[tuple[str, list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "main.py").touch()
    (tmp_path / "requirements.txt").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert dev.main(["matrix"]) == 0
    assert [version for version, _ in tested] == ["own"]
    assert "| own | 19 | 0 | 1 |" in capsys.readouterr().out
    assert dev.main(["matrix", "0.24.0"]) == 1
    assert "COMFYUI_PATH" in capsys.readouterr().err


def test_unknown_commands_show_the_usage(
    dev: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dev.main(["dance"]) == 2
    assert "dev.py demo" in capsys.readouterr().out
