"""What a search varies, as settings of a task's training parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from albef import tasks
from albef.config import Config, overlay, section_of, to_dict

DISTRIBUTIONS = ("uniform", "loguniform", "randint", "factor")
"""What a task may declare, see `albef.tasks.base.Task.search_space`."""
Space = dict[str, tuple[str, float, float]]
"""By training parameter: uniform, loguniform, randint or lograndint, and its bounds, both within."""


class SpaceError(ValueError):
    """A search space that does not fit the parameters."""


def space_of(config: Config, task: str, learned: Mapping[str, float]) -> Space:
    """The search space that a task declares, around the present setting.

    Args:
        learned: What null stands for, of parameters that the weights already have.

    Raises:
        SpaceError: If it names what is no training parameter, or bounds that are none.
    """
    if not hasattr(config.tasks, task):
        raise SpaceError(f"{task}: expected one of {', '.join(sorted(to_dict(config.tasks)))}")
    space = {}
    for key, (kind, low, high) in tasks.get(task).search_space().items():
        where = f"{task}.search_space: {key}"
        if kind not in DISTRIBUTIONS:
            raise SpaceError(f"{where}: expected one of {', '.join(DISTRIBUTIONS)}, got {kind!r}")
        if not low < high or (kind in ("loguniform", "factor") and low <= 0):
            raise SpaceError(
                f"{where}: expected ascending bounds, above 0 for loguniform and factor, got {low}, {high}"
            )
        value = present(config, task, key, learned)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpaceError(f"{where}: expected a number in tasks.{task}.train, got {value!r}")
        if kind == "factor":
            if value <= 0:
                continue  # nothing to multiply
            whole = isinstance(value, int)
            kind, low, high = "lograndint" if whole else "loguniform", low * value, high * value
            low, high = (max(round(low), 1), max(round(high), 2)) if whole else (low, high)
        space[key] = (kind, min(low, value), max(high, value))  # what is now is always among what may be
    if not space:
        raise SpaceError(f"{task}: the task declares no search space")
    return space


def present(config: Config, task: str, key: str, learned: Mapping[str, float]) -> Any:
    """The present value of a training parameter.

    Raises:
        SpaceError: If there is no such parameter.
    """
    value: Any = to_dict(section_of(config, task).train)
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise SpaceError(f"{task}.search_space: {key}: no key of tasks.{task}.train")
        value = value[part]
    return learned.get(key) if value is None else value


def nested(task: str, setting: Mapping[str, Any]) -> dict[str, Any]:
    """A setting as part of ``params.yaml``."""
    train: dict[str, Any] = {}
    for key, value in setting.items():
        *parents, last = key.split(".")
        section = train
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return {"tasks": {task: {"train": train}}}


def applied(config: Config, task: str, setting: Mapping[str, Any]) -> Config:
    """The parameters of a trial: those of the task with a setting, and the epochs of the search."""
    values = nested(task, setting)
    if config.tune.epochs is not None:
        values["tasks"][task]["train"]["epochs"] = config.tune.epochs
    return overlay(config, values)
