"""Search spaces over the training parameters of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from albef.config import Config, overlay, section_of, to_dict
from albef.tasks.base import task_class
from albef.tuning.results import as_params

DISTRIBUTIONS = ("uniform", "loguniform", "randint", "factor")
"""Distributions that a task may declare; see `albef.tasks.base.Task.search_space`."""
Space = dict[str, tuple[str, float, float]]
"""Distribution (uniform, loguniform, randint or lograndint) and inclusive bounds, by training parameter."""


class SpaceError(ValueError):
    """A search space that does not match the parameters."""


def space_of(config: Config, task: str, learned: Mapping[str, float]) -> Space:
    """Return a task's search space, widened to contain the current setting.

    Args:
        learned: Values from the pretrained weights, for parameters that are null.

    Raises:
        SpaceError: If the space names an unknown training parameter or has invalid bounds.
    """
    if not hasattr(config.tasks, task):
        raise SpaceError(f"{task}: unknown task, expected one of {', '.join(sorted(to_dict(config.tasks)))}")
    space = {}
    for key, (kind, low, high) in task_class(task).search_space().items():
        where = f"{task}.search_space: {key}"
        if kind not in DISTRIBUTIONS:
            raise SpaceError(f"{where}: expected one of {', '.join(DISTRIBUTIONS)}, got {kind!r}")
        if not low < high or (kind in ("loguniform", "factor") and low <= 0):
            raise SpaceError(
                f"{where}: expected ascending bounds, above 0 for loguniform and factor, got {low}, {high}"
            )
        value = current_value(config, task, key, learned)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpaceError(f"{where}: expected a number in tasks.{task}.train, got {value!r}")
        if kind == "factor":
            if value <= 0:
                continue  # a factor cannot change it
            integer = isinstance(value, int)
            kind, low, high = "lograndint" if integer else "loguniform", low * value, high * value
            low, high = (max(round(low), 1), max(round(high), 2)) if integer else (low, high)
        space[key] = (kind, min(low, value), max(high, value))
    if not space:
        raise SpaceError(f"{task}: the task declares no search space")
    return space


def current_value(config: Config, task: str, key: str, learned: Mapping[str, float]) -> Any:
    """Return the current value of a training parameter.

    Raises:
        SpaceError: If the parameter does not exist.
    """
    value: Any = to_dict(section_of(config, task).train)
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise SpaceError(f"{task}.search_space: {key}: not a key of tasks.{task}.train")
        value = value[part]
    return learned.get(key) if value is None else value


def trial_config(config: Config, task: str, setting: Mapping[str, Any]) -> Config:
    """Return the parameters of a trial, with the epochs of the search."""
    values = as_params(task, setting)
    if config.tune.epochs is not None:
        values["tasks"][task]["train"]["epochs"] = config.tune.epochs
    return overlay(config, values)
