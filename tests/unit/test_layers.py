"""Tests of import layers, training dependencies and file contents."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests import ROOT

# Packages and modules of albef, lowest layer first; those of one layer may not import each other. The longest prefix of
# a module's name decides.
LAYERS = [
    {"arguments", "config_parsing", "html", "io", "models.architecture", "progress", "serving.protocol"},
    {"tasks.spec", "config_data"},
    {"tasks.registry"},
    {"config"},
    {"losses", "distributed", "cluster"},
    {"workers", "ray_data"},
    {"models", "data"},
    {"weights", "inference", "datasets", "tracking", "serving", "report", "presets", "init_lists"},
    {"index", "validation"},
    {"tasks"},
    {"training", "export", "drift", "behavior", "report.record", "report.about"},
    {"tuning", "registry", "ablation", "report.page"},
    {"sources", "init_data", "doctor"},
    {"api"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
LAYER = {package: number for number, packages in enumerate(LAYERS) for package in packages}

# What the training core may import beside the standard library and itself.
CORE = ("albef.models", "albef.losses", "albef.tasks.base", "albef.training.loop")
HEAVY = (
    "mlflow",
    "ray",
    "optuna",
    "prefect",
    "dvc",
    "great_expectations",
    "pandas",
    "matplotlib",
    "onnx",
    "onnxruntime",
)
HEAVY += ("onnxscript", "faiss", "tritonclient", "gradio")
HOMES = {
    "mlflow": {"albef.tracking", "albef.registry"},
    "great_expectations": {"albef.validation"},
    "ray": {"albef.cluster", "albef.tuning", "albef.ray_data", "albef.workers"},
    "prefect": set(),
    "dvc": set(),
    "matplotlib": {"albef.report", "albef.tasks.grounding.report", "albef.ablation.page"},
    "tritonclient": {"albef.serving"},
    "gradio": {"albef.demo"},
}


@cache
def modules() -> dict[str, Path]:
    """Every module of the library by dotted name."""
    found = {}
    for path in (ROOT / "albef").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def is_type_checking(node: ast.AST) -> bool:
    """Return whether a node is ``if TYPE_CHECKING``."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree: ast.AST, *, types: bool = True) -> set[str]:
    """Return the dotted names that a tree imports.

    ``from a import b`` gives ``a`` and ``a.b``.
    """
    found: set[str] = set()
    if not types and is_type_checking(tree):
        return found
    if isinstance(tree, ast.Import):
        found |= {alias.name for alias in tree.names}
    elif isinstance(tree, ast.ImportFrom):
        found |= {f"{tree.module}", *(f"{tree.module}.{alias.name}" for alias in tree.names)}
    for child in ast.iter_child_nodes(tree):
        found |= imports(child, types=types)
    return found


@cache
def imported(path: Path, types: bool = True) -> frozenset[str]:
    """`imports` of a file."""
    return frozenset(imports(ast.parse(path.read_text(encoding="utf-8")), types=types))


def package(module: str) -> str:
    """Entry of `LAYERS` for a module: the longest prefix of its name."""
    parts = module.split(".")[1:]
    prefixes = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((prefix for prefix in prefixes if prefix in LAYER), parts[0])


@cache
def empty_packages() -> frozenset[str]:
    """Packages whose ``__init__`` holds a docstring at most."""
    return frozenset(
        name
        for name, path in modules().items()
        if path.name == "__init__.py" and len(ast.parse(path.read_text()).body) < 2
    )


def own_imports(path: Path) -> set[str]:
    """Modules of the library that a file imports."""
    return {name for name in imported(path) if name in modules() and name != "albef"} - empty_packages()


@pytest.mark.parametrize("module", sorted(m for m in modules() if m != "albef"))
def test_imports_go_down(module: str) -> None:
    own = package(module)
    assert own in LAYER, f"{module}: add the package {own!r} to LAYERS in {Path(__file__).name}"
    for name in own_imports(modules()[module]):
        if package(name) != own:
            assert LAYER[package(name)] < LAYER[own], f"{module} imports {name}, which is not in a lower layer"


def test_no_two_files_import_each_other() -> None:
    every = modules()
    # A package's own __init__ is not a user of what is inside it for this purpose: importing `a.b` runs `a` first.
    graph = {name: own_imports(path) - {name} for name, path in every.items()}
    packages = {name for name, path in every.items() if path.name == "__init__.py"}
    for name, needs in graph.items():
        graph[name] = {n for n in needs if not (n in packages and name.startswith(f"{n}."))}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("library", sorted(HOMES))
def test_heavy_libraries_stay_at_home(library: str) -> None:
    for module, path in modules().items():
        if any(name.split(".")[0] == library for name in imported(path)):
            assert any(f"{module}.".startswith(f"{home}.") for home in HOMES[library]), f"{module} imports {library}"


def test_flows_know_nothing_of_the_library() -> None:
    for path in (ROOT / "flows").glob("*.py"):
        reached = {name for name in imported(path) if name.split(".")[0] == "albef"}
        assert all(name.startswith("albef.serving") for name in reached), f"{path.name} imports {reached}"


WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {names} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def python(code: str, without: tuple[str, ...] = (), cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter where the libraries ``without`` are not installed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITHOUT.format(names=repr(without)) + code]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_core_needs_nothing_heavy() -> None:
    code = "from albef.tasks import base, registry\nfor name in registry.names(): base.task_class(name)\n"
    done = python("".join(f"import {name}\n" for name in CORE) + code, HEAVY)
    assert done.returncode == 0, done.stderr


def test_serving_needs_no_torch() -> None:
    every = [name for name in modules() if name.startswith("albef.serving")]
    # What Triton provides to the code of an endpoint.
    triton = "import types; sys.modules['triton_python_backend_utils'] = types.ModuleType('triton')\n"
    done = python(triton + "".join(f"import {name}\n" for name in every), ("torch", "timm", "transformers"))
    assert done.returncode == 0, done.stderr


def test_a_library_left_out_is_really_absent() -> None:
    assert "No module named 'numpy'" in python("import numpy", ("numpy",)).stderr


@pytest.mark.parametrize("module", ["albef", "albef.cli", "albef.config", "albef.report"])
def test_the_command_line_is_light(module: str, tmp_path: Path) -> None:
    """``albef --help`` answers at once: nothing heavy, nothing printed, no file written."""
    heavy = {*HEAVY, "torch", "numpy"}
    done = python(f"import sys, {module}; assert not set(sys.modules) & {heavy}", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def tracked() -> list[Path]:
    """Files that git tracks or would: text ones."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize("path", [p for p in tracked() if p.suffix == ".py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 400, f"{lines} lines; split it"


def _pattern(*parts: str) -> str:
    return "".join(parts)  # put together here, so that this file does not match itself


FORBIDDEN = {
    "a path of one machine": _pattern(r"(?<![\w.~$}/])/(?:home|root|Users|work|opt|mnt)", r"/[\w.-]+"),
    "a package registry's address": _pattern(
        r"(?:pypi|files\.pythonhosted|test\.pypi|registry\.npmjs)", r"\.(?:org|io)/"
    ),
    "a private index": _pattern(r"(?:--(?:extra-)?index-url|--find-links|find-links\s*=)", r"[ =]"),
}


def test_files_name_no_machine_and_no_registry() -> None:
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data or path.suffix in {".png", ".lock"}:
            continue
        text = data.decode("utf-8", errors="replace")
        for what, pattern in FORBIDDEN.items():
            found += [f"{path.relative_to(ROOT)}: {what}: {m.group()}" for m in re.finditer(pattern, text)]
    assert not found, "\n".join(found)


def test_no_large_files() -> None:
    large = [str(p.relative_to(ROOT)) for p in tracked() if p.stat().st_size > 4_000_000]
    assert not large, f"above 4 MB; data belongs under DVC: {large}"
