"""Which files of the library a stage's command runs: its import graph, followed from the command line."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from pathlib import Path

from albef import cli
from tests.unit.test_layers import ROOT, imported, imports, modules

# Reached by every stage, and without influence of their own: what they read reaches a stage as its command line and
# its parameters, which DVC compares; `tasks` maps a name to a module, and tracking only listens.
PLUMBING = {"albef", "albef.cli", "albef.config", "albef.config_parsing", "albef.tasks"}
PLUMBING |= {name for name in modules() if name.split(".")[1:2] == ["tracking"]}


def is_empty(path: Path) -> bool:
    """Whether a file holds a docstring at most."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def packages(name: str) -> set[str]:
    """A module and the packages around it, whose ``__init__`` runs first."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts) + 1)}


@cache
def needs(name: str) -> frozenset[str]:
    """Modules of the library that one imports at run time, lazily or not."""
    every = modules()
    found = {m for target in imported(every[name], types=False) if target in every for m in packages(target)}
    return frozenset(found - {name})


def closure(start: set[str]) -> set[str]:
    """``start`` and all that it imports, directly or not."""
    found: set[str] = set()
    queue = list(start)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += needs(name) if name not in PLUMBING else []
    return found


def of_command(command: str) -> set[Path]:
    """Files that an ``albef`` command runs or copies, from the root, without plumbing and empty ones."""
    program, *words = command.split()
    assert program == "albef", command
    arguments = cli.parser().parse_args(words)
    handler = ast.parse(textwrap.dedent(inspect.getsource(arguments.function)))
    every = modules()
    start = {m for name in imports(handler) if name in every for m in packages(name)}
    extra: set[Path] = set()
    if arguments.command in ("pretrain", "tune", "finetune"):
        start |= {f"albef.tasks.{arguments.task}"}  # imported by name
    if arguments.command == "repository":
        # Copied into the model repository, with what it imports.
        extra = set((ROOT / "infra/triton/models").rglob("*.py"))
        start |= {m for path in extra for name in imported(path) if name in every for m in packages(name)}
    files = {every[name] for name in closure(start) - PLUMBING}
    return {path.relative_to(ROOT) for path in files | extra if not is_empty(path)}
