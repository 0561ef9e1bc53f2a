"""Tasks: what is trained and measured. Each file joins the model, the objectives, the data and a metric."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from albef.tasks.base import Task

_TASKS = {
    "pretrain": "Pretrain",
    "text_assignment": "TextAssignment",
    "retrieval": "Retrieval",
    "vqa": "Vqa",
    "entailment": "Entailment",
    "nlvr2": "Nlvr2",
    "grounding": "Grounding",
}


def names() -> list[str]:
    """Every task that can be trained."""
    return list(_TASKS)


def get(name: str) -> type[Task]:
    """The task called ``name``.

    Raises:
        ValueError: If there is none.
    """
    if name not in _TASKS:
        raise ValueError(f"unknown task {name!r}; known are {', '.join(_TASKS)}")
    task: type[Task] = getattr(import_module(f"albef.tasks.{name}"), _TASKS[name])
    return task
