"""The registry of tasks: the only table of their names.

A task is a package with the modules ``spec`` (torch-free, holds ``SPEC``), ``train``, ``evaluate``, ``export``,
``endpoint``, ``client`` and ``report``, as far as it needs them. Those of this library are listed here; other
distributions add theirs with the entry-point group ``albef.tasks`` (task name -> package).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from albef.serving.protocol import GraphSizes, ModelSpec
from albef.tasks.spec import TaskSpec

GROUP = "albef.tasks"
"""Entry-point group of tasks in other distributions."""
_BUILT_IN = ("pretrain", "text_assignment", "retrieval", "vqa", "entailment", "nlvr2", "grounding")
_NO_SIZES = GraphSizes(1, 1, 1, 1)


class UnknownTaskError(ValueError):
    """No installed package provides the task, or the task lacks the asked part."""


@cache
def _packages() -> dict[str, str]:
    """Return the package of every task by name."""
    found = {name: f"albef.tasks.{name}" for name in _BUILT_IN}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if found.setdefault(entry.name, entry.value) != entry.value:
            raise UnknownTaskError(f"entry point {GROUP}: {entry.value} is called {entry.name!r}, a name already taken")
    return found


def names() -> list[str]:
    """Return the names of all tasks, those of this library first."""
    return list(_packages())


def package(task: str) -> str:
    """Return the dotted name of a task's package.

    Raises:
        UnknownTaskError: If no task has this name.
    """
    if task not in _packages():
        raise UnknownTaskError(f"unknown task {task!r}; known are {', '.join(_packages())}")
    return _packages()[task]


def module(task: str, part: str) -> ModuleType:
    """Import a module of a task's package, such as ``evaluate``.

    Raises:
        UnknownTaskError: If no task has this name or its package lacks the module.
    """
    if not provides(task, part):
        having = [name for name in names() if provides(name, part)]
        raise UnknownTaskError(f"task {task!r} has no {part}; tasks with one are {', '.join(having)}")
    return import_module(f"{package(task)}.{part}")


def provides(task: str, part: str) -> bool:
    """Return whether a task's package has a module.

    Raises:
        UnknownTaskError: If no task has this name.
    """
    return find_spec(f"{package(task)}.{part}") is not None


@cache
def spec(task: str) -> TaskSpec:
    """Return the description of a task.

    Raises:
        UnknownTaskError: If no task has this name.
    """
    found: TaskSpec = import_module(f"{package(task)}.spec").SPEC
    if found.name != task:
        raise UnknownTaskError(f"{package(task)}.spec: SPEC.name is {found.name!r}, expected {task!r}")
    return found


def specs() -> list[TaskSpec]:
    """Return the descriptions of all tasks."""
    return [spec(task) for task in names()]


def fine_tuned() -> list[TaskSpec]:
    """Return the tasks with a section below ``tasks`` in ``params.yaml``."""
    return [each for each in specs() if each.fine_tuning]


def endpoints() -> dict[str, ModelSpec]:
    """Return the signatures of the endpoints of all served tasks by name."""
    return {each.name: each.endpoint for each in specs() if each.endpoint is not None}


def graphs(task: str, sizes: GraphSizes = _NO_SIZES) -> dict[str, ModelSpec]:
    """Return the signatures of a task's exported graphs by name; without ``sizes`` only the names are meaningful.

    Raises:
        UnknownTaskError: If the task has no export.
    """
    signatures = spec(task).graphs
    if signatures is None:
        having = [each.name for each in specs() if each.graphs is not None]
        raise UnknownTaskError(f"no export for task {task!r}; known are {', '.join(having)}")
    return signatures(sizes)


def models_for(task: str) -> list[str]:
    """Return the tasks whose models can answer ``task``: its own, and with ITC and ITM every other one with both.

    Retrieval with a pretraining model is zero-shot retrieval (paper section 5).

    Raises:
        UnknownTaskError: If no task has this name.
    """
    wanted = spec(task).architecture
    return [e.name for e in specs() if (e.architecture.align if wanted.align else e.architecture == wanted)]


def list_schema(name: str) -> Any:
    """Return the schema of a list that only one task has, None where no task declares it."""
    return next((each.lists[name] for each in specs() if name in each.lists), None)
