"""dev.py: what it checks, where it keeps things, and what it says when something is wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import vdit_attention

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """dev.py as a fresh module whose cache is a temporary folder."""
    monkeypatch.setenv("VDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    spec = importlib.util.spec_from_file_location("dev_under_test", REPO / "dev.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "dev_under_test", module)  # dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module


def archive_with(tmp_path: Path, files: dict[str, bytes]) -> tuple[Path, str]:
    """A source archive with these files in it, and its sha256."""
    path = tmp_path / "comfy.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_unpacks_only_comfyui(dev: ModuleType, tmp_path: Path) -> None:
    files = {
        "pkg-1/setup.py": b"no",
        "pkg-1/vendor/ComfyUI/main.py": b"yes",
        "pkg-1/vendor/ComfyUI/comfy/ops.py": b"yes",
        "pkg-1/vendor/ComfyUI/../../../outside.py": b"no",
        "/pkg-1/vendor/ComfyUI/../absolute.py": b"no",
    }
    archive, sha256 = archive_with(tmp_path, files)
    target = tmp_path / "target"
    dev.unpack_comfyui(archive, target, sha256)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.py")}
    assert written == {"target/main.py", "target/comfy/ops.py"}


def test_refuses_an_archive_with_another_hash(dev: ModuleType, tmp_path: Path) -> None:
    archive, sha256 = archive_with(tmp_path, {"pkg-1/vendor/ComfyUI/main.py": b"changed"})
    with pytest.raises(dev.Problem, match=f"sha256 {sha256}, but {'0' * 64} was expected"):
        dev.unpack_comfyui(archive, tmp_path / "target", "0" * 64)
    assert not (tmp_path / "target").exists()


def test_refuses_an_old_python(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dev, "PYTHON_NEEDED", (99, 0))
    assert dev.main(["env"]) == 1
    assert "is needed" in capsys.readouterr().err


def test_refuses_a_full_disk(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev.shutil, "disk_usage", lambda path: SimpleNamespace(free=2.5e9))
    with pytest.raises(dev.Problem, match=r"2\.5 GB free.*VDIT_CACHE"):
        dev.check_disk(tmp_path / "env")


def test_refuses_a_comfyui_path_without_comfyui(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(dev.Problem, match=r"no main\.py"):
        dev.own_comfyui()


def test_a_comfyui_of_ones_own_wins(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "main.py").touch()
    (tmp_path / "requirements.txt").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert dev.own_comfyui() == tmp_path.resolve()
    monkeypatch.setenv("COMFYUI_VERSION", "0.18.2")
    assert dev.comfyui_folders() == (tmp_path.resolve(), tmp_path.resolve())


def test_other_requirements_mean_another_environment(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("torch\n")
    first = dev.environment_folder(tmp_path, tmp_path)
    assert first == dev.environment_folder(tmp_path, tmp_path)
    requirements.write_text("torch\nnumpy\n")
    second = dev.environment_folder(tmp_path, tmp_path)
    monkeypatch.setattr(dev, "TORCH", ("torch==1.0",))
    assert len({first, second, dev.environment_folder(tmp_path, tmp_path)}) == 3


def test_the_newest_comfyui_is_the_usual_one(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [[int(part) for part in version.split(".")] for version in dev.PINNED]
    assert versions == sorted(versions, reverse=True)
    newest = dev.pinned_comfyui_folder(dev.NEWEST)
    assert dev.comfyui_folders() == (newest, newest)
    oldest = dev.pinned_comfyui_folder("0.18.2")
    monkeypatch.setenv("COMFYUI_VERSION", "0.18.2")
    assert dev.comfyui_folders() == (oldest, newest)
    assert dev.comfyui_folders("0.30.0") == (newest, newest)


def test_the_oldest_comfyui_is_the_one_that_is_asked_for(dev: ModuleType) -> None:
    *_, oldest = dev.PINNED
    assert oldest == vdit_attention.OLDEST_COMFYUI
    project = (REPO / "pyproject.toml").read_text("utf-8")
    assert f'requires-comfyui = ">={oldest}"\n' in project


def test_every_older_comfyui_is_tested_by_the_workflow(dev: ModuleType) -> None:
    workflow = (REPO / ".github" / "workflows" / "test.yml").read_text("utf-8")
    _, *older = dev.PINNED
    assert f"comfyui: {json.dumps(older)}\n" in workflow


def test_refuses_a_version_that_is_not_pinned(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYUI_VERSION", "0.1")
    with pytest.raises(dev.Problem, match=r"no ComfyUI 0\.1 .* 0\.30\.0, .*0\.16\.3"):
        dev.comfyui_folders()


def test_makes_a_folder_once(dev: ModuleType, tmp_path: Path) -> None:
    made: list[Path] = []
    target = tmp_path / "cache" / "thing-1"
    for _ in range(2):
        assert dev.make_once(target, lambda path, lock: made.append(path)) == target
    assert made == [target]
    assert not dev.scratch_of(target).exists()


def test_makes_an_unfinished_folder_afresh(dev: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "thing-1"

    def fail(path: Path, lock: int) -> None:
        (path / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dev.make_once(target, fail)
    assert (target / "half").exists() and not dev.is_complete(target)
    dev.make_once(target, lambda path, lock: (path / "whole").touch())
    assert dev.is_complete(target) and not (target / "half").exists()


def test_an_environment_without_its_python_is_not_complete(dev: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "env-1"
    target.mkdir()
    (target / dev.COMPLETE).touch()
    assert not dev.is_complete(target)


def test_two_runs_make_it_once(dev: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "thing-1"
    made: list[float] = []

    def make(path: Path, lock: int) -> None:
        time.sleep(0.3)
        made.append(time.monotonic())

    runs = [threading.Thread(target=dev.make_once, args=(target, make)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(made) == 1


def test_a_dead_holder_frees_the_lock(dev: ModuleType, tmp_path: Path) -> None:
    code = f"""if True:
        import importlib.util, os, sys
        spec = importlib.util.spec_from_file_location("dev", {str(REPO / "dev.py")!r})
        dev = sys.modules["dev"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(dev)
        from pathlib import Path
        with dev.locked(Path({str(tmp_path / "thing")!r})):
            print("held", flush=True)
            sys.stdin.read()
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        with open(tmp_path / "thing.lock", "a+b") as file:
            assert not dev.try_lock(file)
            holder.kill()
            holder.wait()
            assert dev.try_lock(file)


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("NewConnectionError: Failed to establish a new connection", "check the network"),
        ("ERROR: No matching distribution found for torch==2.11.0", "check the network"),
        ("OSError: [Errno 28] No space left on device", "VDIT_CACHE"),
        ("No module named ensurepip", "python3-venv"),
        ("ERROR: something new", "run this again"),
    ],
)
def test_says_why_a_command_failed(
    dev: ModuleType, tmp_path: Path, output: str, advice: str
) -> None:
    target = tmp_path / "cache" / "env-1"

    def make(path: Path, lock: int) -> None:
        fail = f"print({output!r}); raise SystemExit(1)"
        dev.run_logged([sys.executable, "-c", fail], path, "Installing", lock)

    with pytest.raises(dev.Problem) as caught:
        dev.make_once(target, make)
    for part in ("failed: Installing", output, str(dev.log_of(target)), advice):
        assert part in str(caught.value)


def test_links_the_repository_once_and_again_when_it_has_moved(dev: ModuleType) -> None:
    link = dev.link_pack() / "vdit_attention"
    assert dev.link_pack() / "vdit_attention" == link
    assert link.samefile(REPO)
    dev.remove_link(link)
    link.symlink_to(REPO / "tests")
    dev.link_pack()
    assert link.samefile(REPO)


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
