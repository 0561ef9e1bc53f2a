"""Registry of tasks and endpoints, the only table of their names.

A task is a package with a module ``spec`` (torch-free, defines ``SPEC``) and, as needed, ``train``, ``evaluate``,
``behavior``, ``export``, ``endpoint``, ``client`` and ``report``. A package whose ``SPEC`` is an `EndpointSpec` is an
endpoint that answers with the graphs of a task, and no task itself. Built-in packages are listed here; other
distributions register theirs through the entry-point group ``albef.tasks`` (name -> package).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from albef.serving.protocol import GraphSizes, ModelSpec
from albef.tasks.spec import EndpointSpec, TaskSpec

GROUP = "albef.tasks"
"""Entry-point group for packages of other distributions."""
_TASKS = ("pretrain", "text_assignment", "retrieval", "vqa", "entailment", "nlvr2", "grounding")
_ENDPOINTS = ("embed", "classify")
_NO_SIZES = GraphSizes(1, 1, 1, 1)


class UnknownTaskError(ValueError):
    """The task is not registered, or its package lacks the requested module."""


@cache
def _packages() -> dict[str, str]:
    """Return the dotted package name of every task and endpoint, by name."""
    packages = {name: f"albef.tasks.{name}" for name in (*_TASKS, *_ENDPOINTS)}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if packages.setdefault(entry.name, entry.value) != entry.value:
            raise UnknownTaskError(
                f"entry point {GROUP}: {entry.name!r} refers to {entry.value}, but the name is already registered for "
                f"{packages[entry.name]}; rename one of them"
            )
    return packages


def names() -> list[str]:
    """Return the names of all tasks, built-in tasks first."""
    return [each.name for each in specs()]


def package(name: str) -> str:
    """Return the dotted name of the package of a task or endpoint.

    Raises:
        UnknownTaskError: If there is no such package.
    """
    if name not in _packages():
        raise UnknownTaskError(f"unknown task {name!r}; known are {', '.join(_packages())}")
    return _packages()[name]


def module(task: str, part: str) -> ModuleType:
    """Import a module of a package, for example ``evaluate``.

    Raises:
        UnknownTaskError: If no task has this name or its package lacks the module.
    """
    if not provides(task, part):
        available = [name for name in names() if provides(name, part)]
        raise UnknownTaskError(f"task {task!r} has no module {part!r}; tasks with one are {', '.join(available)}")
    return import_module(f"{package(task)}.{part}")


def provides(task: str, part: str) -> bool:
    """Return whether a package contains a module.

    Raises:
        UnknownTaskError: If no task has this name.
    """
    return find_spec(f"{package(task)}.{part}") is not None


@cache
def _spec(name: str) -> EndpointSpec:
    """Return the specification in a package."""
    result: EndpointSpec = import_module(f"{package(name)}.spec").SPEC
    if result.name != name:
        raise UnknownTaskError(f"{package(name)}.spec: SPEC.name is {result.name!r}, expected {name!r}")
    return result


def spec(task: str) -> TaskSpec:
    """Return the specification of a task.

    Raises:
        UnknownTaskError: If no task has this name.
    """
    result = _spec(task)
    if not isinstance(result, TaskSpec):
        raise UnknownTaskError(f"{task!r} is an endpoint of {result.task}, not a task; tasks are {', '.join(names())}")
    return result


def specs() -> list[TaskSpec]:
    """Return the specifications of all tasks."""
    return [each for each in map(_spec, _packages()) if isinstance(each, TaskSpec)]


def fine_tuned() -> list[TaskSpec]:
    """Return the tasks that have a section under ``tasks`` in ``params.yaml``."""
    return [each for each in specs() if each.fine_tuning]


def endpoints() -> dict[str, ModelSpec]:
    """Return the signatures of all endpoints, by endpoint name."""
    return {each.endpoint.name: each.endpoint for each in map(_spec, _packages()) if each.endpoint is not None}


def endpoint(name: str) -> EndpointSpec:
    """Return the specification of an endpoint.

    Raises:
        UnknownTaskError: If no endpoint has this name.
    """
    for each in map(_spec, _packages()):
        if each.endpoint is not None and each.endpoint.name == name:
            return each
    raise UnknownTaskError(f"unknown endpoint {name!r}; known are {', '.join(endpoints())}")


def client(endpoint_name: str) -> ModuleType:
    """Import the client module of an endpoint.

    Raises:
        UnknownTaskError: If no endpoint has this name.
    """
    return module(endpoint(endpoint_name).name, "client")


def graph_models(endpoint_name: str) -> dict[str, str]:
    """Return the models of an endpoint's graphs in the repository, by graph name.

    Raises:
        UnknownTaskError: If no endpoint has this name.
    """
    return {name: spec.name for name, spec in graphs(endpoint(endpoint_name).name).items()}


def served_tasks() -> dict[str, str]:
    """Return the name of each served task's own endpoint, by task name."""
    return {each.name: each.endpoint.name for each in specs() if each.endpoint is not None}


def graphs(task: str, sizes: GraphSizes = _NO_SIZES) -> dict[str, ModelSpec]:
    """Return the signatures of the graphs of a task's or an endpoint's package, by graph name.

    Without ``sizes`` only the names are meaningful.

    Raises:
        UnknownTaskError: If the task has no export.
    """
    signatures = _spec(task).graphs
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
