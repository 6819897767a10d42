"""Who knows whom: only host and doorways know a host, and importing the pack needs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
CORE = REPO / "vdit_core"
COMFYUI = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "nodes",
    "server",
}
HOSTS = COMFYUI | {"diffusers"}
TORCH_ONLY = sorted(p for p in CORE.rglob("*.py") if "host" not in p.relative_to(CORE).parts)
NUMPY_1 = {"add", "array_split", "atleast_2d", "concatenate", "int64", "matmul", "uint8", "uint32"}
UPPER_ROOMS = {"host", "nodes", "tests", "benchmarks"}


def imported(path: Path) -> set[str]:
    """Dotted names of everything a file imports; relative ones begin with the pack's own name."""
    package = ["vdit_attention", *path.relative_to(REPO).parent.parts]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            names |= {".".join([*module, alias.name]) for alias in node.names}
    return names


def test_the_rooms_are_there() -> None:
    assert {p.name for p in TORCH_ONLY} >= {"plan.py", "run.py", "record.py", "wan.py", "api.py"}
    assert "comfy.model_patcher.ModelPatcher" in imported(CORE / "host" / "comfy.py")
    assert "vdit_attention.vdit_core.run.Run" in imported(CORE / "host" / "comfy.py")
    assert "diffusers.WanTransformer3DModel" in imported(CORE / "host" / "diffusers_families.py")


@pytest.mark.parametrize("path", TORCH_ONLY, ids=lambda p: str(p.relative_to(CORE)))
def test_a_torch_only_room_does_not_know_the_host(path: Path) -> None:
    names = imported(path)
    assert not {name for name in names if name.split(".")[0] in HOSTS}
    own = {tuple(name.split(".")[1:3]) for name in names if name.startswith("vdit_attention.")}
    assert not {room for rooms in own for room in rooms} & UPPER_ROOMS


@pytest.mark.parametrize("path", sorted((CORE / "host").rglob("*.py")), ids=lambda p: p.name)
def test_a_host_does_not_know_the_other(path: Path) -> None:
    names = imported(path)
    if path.name.startswith("diffusers"):
        assert not {name for name in names if name.split(".")[0] in COMFYUI}
    else:
        own = "vdit_attention.vdit_core.host.diffusers"
        assert not {name for name in names if name.startswith(("diffusers", own))}


@pytest.mark.parametrize("path", sorted((CORE / "host").rglob("*.py")), ids=lambda p: p.name)
def test_the_host_does_not_know_the_doorways(path: Path) -> None:
    assert not {name for name in imported(path) if name.startswith("vdit_attention.nodes")}


@pytest.mark.parametrize("path", sorted((REPO / "nodes").rglob("*.py")), ids=lambda p: p.name)
def test_a_doorway_does_not_know_tests_or_benchmarks(path: Path) -> None:
    names = {name.split(".")[1] for name in imported(path) if name.startswith("vdit_attention.")}
    assert names <= {"nodes", "vdit_core"}


def test_what_torch_2_4_lacks_is_imported_only_where_it_is_used() -> None:
    bodies = [ast.parse(path.read_text("utf-8")).body for path in CORE.rglob("*.py")]
    at_once = [node.module for body in bodies for node in body if isinstance(node, ast.ImportFrom)]
    assert "torch.backends.cuda" in at_once
    assert not [name for name in at_once if name and "flex_attention" in name]


def test_numpy_1_is_enough() -> None:
    """ComfyUI allows it, and the tests run with numpy 2: before a name is added, look it up."""
    files = [*CORE.rglob("*.py"), *(REPO / "nodes").rglob("*.py")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    of_numpy = [x for x in nodes if isinstance(x, ast.Attribute) and ast.unparse(x.value) == "np"]
    assert {node.attr for node in of_numpy} == NUMPY_1
    assert not {name for path in files for name in imported(path) if name.startswith("numpy.")}


def test_importing_the_pack_imports_neither_comfy_nor_torch() -> None:
    program = (
        "import sys, vdit_attention; "
        "sys.stdout.write(' '.join(n for n in ('comfy', 'comfy_api', 'torch', 'nodes') "
        "if n in sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout == ""
