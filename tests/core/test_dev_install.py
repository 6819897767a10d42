"""dev.py: what it installs, where it keeps it, and what it says when something is wrong."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import vdit_attention

REPO = Path(__file__).resolve().parents[2]


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
