"""Registry of tasks, the only table of their names.

A task is a package with a module ``spec`` (torch-free, defines ``SPEC``) and, as needed, ``train``, ``evaluate``,
``export``, ``endpoint``, ``client`` and ``report``. Built-in tasks are listed here; other distributions register theirs
through the entry-point group ``albef.tasks`` (task name -> package).
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
"""Entry-point group for tasks of other distributions."""
_BUILT_IN = ("pretrain", "text_assignment", "retrieval", "vqa", "entailment", "nlvr2", "grounding")
_NO_SIZES = GraphSizes(1, 1, 1, 1)


class UnknownTaskError(ValueError):
    """The task is not registered, or its package lacks the requested module."""


@cache
def _packages() -> dict[str, str]:
    """Return the dotted package name of every task, by task name."""
    packages = {name: f"albef.tasks.{name}" for name in _BUILT_IN}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if packages.setdefault(entry.name, entry.value) != entry.value:
            raise UnknownTaskError(
                f"entry point {GROUP}: {entry.name!r} refers to {entry.value}, but the name is already registered for "
                f"{packages[entry.name]}; rename one of them"
            )
    return packages


def names() -> list[str]:
    """Return the names of all tasks, built-in tasks first."""
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
    """Import a module of a task's package, for example ``evaluate``.

    Raises:
        UnknownTaskError: If no task has this name or its package lacks the module.
    """
    if not provides(task, part):
        available = [name for name in names() if provides(name, part)]
        raise UnknownTaskError(f"task {task!r} has no module {part!r}; tasks with one are {', '.join(available)}")
    return import_module(f"{package(task)}.{part}")


def provides(task: str, part: str) -> bool:
    """Return whether a task's package contains a module.

    Raises:
        UnknownTaskError: If no task has this name.
    """
    return find_spec(f"{package(task)}.{part}") is not None


@cache
def spec(task: str) -> TaskSpec:
    """Return the specification of a task.

    Raises:
        UnknownTaskError: If no task has this name.
    """
    result: TaskSpec = import_module(f"{package(task)}.spec").SPEC
    if result.name != task:
        raise UnknownTaskError(f"{package(task)}.spec: SPEC.name is {result.name!r}, expected {task!r}")
    return result


def specs() -> list[TaskSpec]:
    """Return the specifications of all tasks."""
    return [spec(task) for task in names()]


def fine_tuned() -> list[TaskSpec]:
    """Return the tasks that have a section under ``tasks`` in ``params.yaml``."""
    return [each for each in specs() if each.fine_tuning]


def endpoints() -> dict[str, ModelSpec]:
    """Return the endpoint signatures of all served tasks, by task name."""
    return {each.name: each.endpoint for each in specs() if each.endpoint is not None}


def graphs(task: str, sizes: GraphSizes = _NO_SIZES) -> dict[str, ModelSpec]:
    """Return the signatures of a task's exported graphs, by graph name.

    Without ``sizes`` only the names are meaningful.

    Raises:
        UnknownTaskError: If the task has no export.
    """
    signatures = spec(task).graphs
    if signatures is None:
        available = [each.name for each in specs() if each.graphs is not None]
        raise UnknownTaskError(f"no export for task {task!r}; known are {', '.join(available)}")
    return signatures(sizes)


def models_for(task: str) -> list[str]:
    """Return the tasks whose models can perform ``task``.

    These are the task itself, tasks with an equal architecture and, if it needs ITC and ITM, all tasks that have both.
    Retrieval with a pretrained model is zero-shot retrieval (paper section 5).

    Raises:
        UnknownTaskError: If no task has this name.
    """
    required = spec(task).architecture
    return [e.name for e in specs() if (e.architecture.align if required.align else e.architecture == required)]


def list_schema(name: str) -> Any:
    """Return the schema of a task-specific list, None if undeclared."""
    return next((each.lists[name] for each in specs() if name in each.lists), None)
