"""Import graph of the library, by command of a stage."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from pathlib import Path

from albef import cli
from albef.tasks import registry
from tests import ROOT
from tests.unit.test_layers import imported, imports, modules

WRAPPER = "sh infra/albef.sh "
"""Start of the command of every stage."""

# Modules that every command imports and that do not decide its results: parameters and command line are compared by DVC
# itself, the registry maps names to modules, tracking and progress only observe, `io` writes what it gets, `cluster`,
# `ray_data` and `workers` start processes.
_NEUTRAL = (
    "albef.cli",
    "albef.cluster",
    "albef.config",
    "albef.config_data",
    "albef.config_parsing",
    "albef.io",
    "albef.progress",
    "albef.ray_data",
    "albef.tasks.registry",
    "albef.tasks.spec",
    "albef.tracking",
    "albef.workers",
)

# Modules that only the commands of some stages import without an influence on their results.
_TRAINING = (
    "albef.training.run",  # starts the loop, in this process or in several
    "albef.training.job",
    "albef.weights",  # formats on disk; adapt_weights is a dependency where a stage starts from another one's model
    "albef.inference.gradcam",
    "albef.inference.boxes",
    "albef.tasks.job",  # writes what evaluation found
    "albef.tasks.grounding.overlay",  # figures
    "albef.tasks.grounding.word_maps",
    "albef.serving",  # names of tensors
)
_ENCODING = tuple(f"albef.inference.{name}" for name in ("answer_search", "encode", "gradcam", "itm_rerank"))
_UNRELATED = {
    "pretrain": (*_TRAINING, "albef.inference"),
    "text_assignment": (*_TRAINING, "albef.inference"),
    "tune": _TRAINING,
    "finetune": _TRAINING,
    "evaluate": ("albef.weights", "albef.serving"),
    "behavior": ("albef.weights", "albef.serving"),
    "export": ("albef.weights", "albef.index", "albef.serving", "albef.tasks"),
    # Graphs and models are in the outputs of the export stages.
    "repository": ("albef.models", *_ENCODING, "albef.losses", "albef.weights", "albef.export.graphs"),
    "reference": ("albef.serving",),
    "inspect": ("albef.init_lists",),  # warns only
}
_MODULES = {
    "pretrain": ("train",),
    "finetune": ("train",),
    "tune": ("train",),
    "evaluate": ("evaluate",),
    "export": ("export",),
    "repository": ("export", "endpoint"),
    "report": ("report",),
}
"""Modules of tasks that a command imports by way of the registry: of its task, or without one of every task."""


def arguments_of(command: str) -> list[str]:
    """Arguments of the command line of a stage."""
    assert command.startswith(WRAPPER), command
    return command.removeprefix(WRAPPER).split()


def packages(name: str) -> set[str]:
    """A module and the packages around it, whose ``__init__`` runs first."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts) + 1)}


def below(name: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether a module is one of ``prefixes`` or within one."""
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)


def is_empty(path: Path) -> bool:
    """Return whether a file contains nothing but a docstring."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


@cache
def needs(name: str) -> frozenset[str]:
    """Modules of the library that one imports at run time, lazily or not."""
    every = modules()
    found = {m for target in imported(every[name], types=False) if target in every for m in packages(target)}
    return frozenset(found - {name})


def closure(start: set[str], without: tuple[str, ...]) -> set[str]:
    """``start`` and all that it imports, directly or not, except the modules ``without``."""
    found: set[str] = set()
    queue = list(start)
    while queue:
        name = queue.pop()
        if name not in found and not below(name, without):
            found.add(name)
            queue += needs(name)
    return found


def of_command(command: str, everything: bool = False) -> set[Path]:
    """Files that a command runs or copies, from the root.

    Args:
        everything: Include those that do not decide its results.
    """
    arguments = cli.parser().parse_args(arguments_of(command))
    handler = ast.parse(textwrap.dedent(inspect.getsource(arguments.function)))
    every = modules()
    start = {m for name in imports(handler) if name in every for m in packages(name)}
    tasks = [arguments.task] if hasattr(arguments, "task") else registry.names()
    for part in _MODULES.get(arguments.command, ()):
        start |= {f"albef.tasks.{task}.{part}" for task in tasks if registry.provides(task, part)}
    stage = "text_assignment" if tasks == ["text_assignment"] else arguments.command
    without = () if everything else (*_NEUTRAL, *_UNRELATED.get(stage, ()))
    files = {every[name] for name in closure(start, without)}
    return {path.relative_to(ROOT) for path in files - {every["albef"]} if not is_empty(path)}
