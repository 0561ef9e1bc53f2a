"""Results of a search: best setting and table of trials."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.config import Config
from albef.data.files import new_folder


class SearchError(ValueError):
    """A search that ended without a usable result."""


@dataclass(frozen=True)
class Trial:
    """A hyper-parameter setting with its validation metrics.

    Args:
        history: Epoch and metric of each validation.
    """

    name: str
    setting: dict[str, float]
    history: list[tuple[int, float]]
    error: str

    @property
    def best(self) -> float:
        """Metric of the best epoch, whose weights fine-tuning keeps."""
        return max((value for _, value in self.history), default=float("-inf"))


@dataclass(frozen=True)
class Outcome:
    """A completed search.

    Args:
        metric: Name of the validation metric, larger is better.
        setting: The current setting, before the search; the first trial is the one with it.
        trials: Empty if the search is disabled.
    """

    task: str
    metric: str
    setting: dict[str, float]
    trials: list[Trial]

    @classmethod
    def of(
        cls, frozen: Iterable[Any], errors: Mapping[int, str], task: str, metric: str, setting: dict[str, float]
    ) -> Outcome:
        """Return the outcome of Optuna's trials, of which the first has the current setting.

        Args:
            errors: Messages by the number of the trial.

        Raises:
            SearchError: If no trial was validated, or the first one was not.
        """
        trials = []
        for index, each in enumerate(frozen, 1):
            values = {key: each.params[key] for key in setting}
            history = sorted(each.intermediate_values.items())
            trials.append(Trial(f"trial_{index}", values, history, errors.get(each.number, "")))
        if not any(trial.history for trial in trials):
            causes = sorted({trial.error for trial in trials if trial.error})
            raise SearchError(f"{task}: no trial was validated: {'; '.join(causes) or 'all were interrupted'}")
        if not trials[0].history:
            raise SearchError(f"{task}: the trial with the current setting was not validated, so there is no baseline")
        return cls(task, metric, setting, trials)

    @property
    def baseline(self) -> Trial:
        """Trial with the current setting."""
        return self.trials[0]

    @property
    def best(self) -> Trial:
        """Best trial; the first one in a tie, which favors the baseline."""
        return max(self.trials, key=lambda trial: trial.best)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the best and the current setting, number of trials."""
        if not self.trials:
            return {}
        return {
            self.metric: self.best.best,
            f"{self.metric}_before": self.baseline.best,
            "trials": len(self.trials),
        }

    @property
    def changes(self) -> dict[str, float]:
        """Best setting; empty if it is the current one."""
        return {} if not self.trials or self.best is self.baseline else self.best.setting

    def summary(self) -> str:
        """Return one line that compares the best setting with the current one."""
        setting = ", ".join(f"{key}={value:.4g}" for key, value in self.best.setting.items())
        return f"{self.task}: {self.metric} {self.baseline.best:.4f} before, {self.best.best:.4f} with {setting}"


def write(outcome: Outcome, out: Path) -> None:
    """Write ``best.yaml``, ``metrics.json`` and ``trials.csv``."""
    from ruamel.yaml import YAML

    with new_folder(out) as folder:
        with (folder / "best.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(as_params(outcome.task, outcome.changes), file)
        (folder / "metrics.json").write_text(json.dumps(outcome.metrics, indent=1) + "\n", encoding="utf-8")
        (folder / "trials.csv").write_text(to_csv(outcome), encoding="utf-8")


def as_params(task: str, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return a setting with dotted keys as a nested part of ``params.yaml``."""
    train: dict[str, Any] = {}
    for key, value in setting.items():
        *parents, last = key.split(".")
        section = train
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return {"tasks": {task: {"train": train}}}


def write_unsearched(config: Config, task: str, out: Path) -> bool:
    """Write the results of a task that is not searched.

    This takes milliseconds; the search itself imports torch.

    Returns:
        False if the parameters ask for a search; nothing is written then.
    """
    if not hasattr(config.tasks, task) or (config.tune.trials > 0 and task in config.tune.tasks):
        return False
    write(Outcome(task, "metric", {}, []), out)
    return True


def to_csv(outcome: Outcome) -> str:
    """Return all trials as CSV, the best first."""
    buffer = io.StringIO()
    keys = list(outcome.setting)
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", outcome.metric, "epochs", *keys, "error"])
    for trial in sorted(outcome.trials, key=lambda trial: -trial.best):
        value = trial.best if trial.history else ""
        writer.writerow([trial.name, value, len(trial.history), *(trial.setting[key] for key in keys), trial.error])
    return buffer.getvalue()
