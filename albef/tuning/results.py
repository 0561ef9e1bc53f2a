"""What a search found: the best setting as parameters, all trials as a table, and two plots."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.data.files import new_folder
from albef.tuning.search_state import told
from albef.tuning.space import nested


class SearchError(ValueError):
    """A search without a result."""


@dataclass(frozen=True)
class Trial:
    """A setting and how it did.

    Args:
        history: Epoch and metric of each validation.
    """

    name: str
    setting: dict[str, float]
    history: list[tuple[int, float]]
    error: str

    @property
    def best(self) -> float:
        """The metric of its best epoch, which fine-tuning keeps."""
        return max((value for _, value in self.history), default=float("-inf"))


@dataclass(frozen=True)
class Outcome:
    """A search that has ended.

    Args:
        setting: That was there before: its trial is the first one.
        trials: Empty without a search.
    """

    task: str
    metric: str
    setting: dict[str, float]
    trials: list[Trial]

    @classmethod
    def of(cls, found: Any, work: Path, task: str, metric: str, setting: dict[str, float]) -> Outcome:
        """From Ray's results, and what trials told meanwhile.

        Raises:
            SearchError: If no trial came to a validation, or not the one with the present setting.
        """
        trials = []
        # Their order is no longer that of the proposals once a search was interrupted; their names count on.
        for result in sorted(found, key=lambda result: int(Path(result.path).name.split("_")[2])):
            parts = Path(result.path).name.split("_")[:3]  # trainable, trial, number; then setting and time
            history = told(work, parts[1])
            tried = {key: result.config[key] for key in setting}
            error = str(result.error).strip().splitlines()[-1] if result.error else ""
            trials.append(Trial("_".join(parts), tried, history, error))
        if not any(trial.history for trial in trials):
            errors = sorted({trial.error for trial in trials if trial.error})
            raise SearchError(f"{task}: no trial came to a validation: {'; '.join(errors) or 'all were interrupted'}")
        before = [trial for trial in trials if trial.setting == setting and trial.history]
        if not before:
            raise SearchError(f"{task}: the present setting came to no validation, to compare others with")
        return cls(task, metric, setting, [*before[:1], *(trial for trial in trials if trial is not before[0])])

    @property
    def before(self) -> Trial:
        """The trial with the setting that was there before."""
        return self.trials[0]

    @property
    def best(self) -> Trial:
        """The best trial; among equals the first, so that what is no better than the present changes nothing."""
        return max(self.trials, key=lambda trial: trial.best)

    @property
    def metrics(self) -> dict[str, float]:
        """The metric of the best setting, of that before, and how many were tried."""
        if not self.trials:
            return {}
        return {
            self.metric: self.best.best,
            f"{self.metric}_before": self.before.best,
            "trials": len(self.trials),
        }

    @property
    def changes(self) -> dict[str, float]:
        """The best setting; empty where the one before is."""
        return {} if not self.trials or self.best is self.before else self.best.setting


def write(outcome: Outcome, out: Path) -> None:
    """Write ``best.yaml``, ``metrics.json``, ``trials.csv``, and ``plots``, a folder of two, or none without trials."""
    from ruamel.yaml import YAML

    with new_folder(out) as folder:
        with (folder / "best.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(nested(outcome.task, outcome.changes), file)
        (folder / "metrics.json").write_text(json.dumps(outcome.metrics, indent=1) + "\n", encoding="utf-8")
        (folder / "trials.csv").write_text(table(outcome), encoding="utf-8")
        (folder / "plots").mkdir()
        if outcome.trials:
            _parallel(outcome, folder / "plots" / "parallel.png")
            _progress(outcome, folder / "plots" / "progress.png")


def table(outcome: Outcome) -> str:
    """All trials, the best first."""
    buffer = io.StringIO()
    keys = list(outcome.setting)
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", outcome.metric, "epochs", *keys, "error"])
    for trial in sorted(outcome.trials, key=lambda trial: -trial.best):
        value = trial.best if trial.history else ""
        writer.writerow([trial.name, value, len(trial.history), *(trial.setting[key] for key in keys), trial.error])
    return buffer.getvalue()


def _parallel(outcome: Outcome, path: Path) -> None:
    """Each trial a line from parameter to parameter to metric, the better the darker."""
    from matplotlib.figure import Figure

    trials = sorted((trial for trial in outcome.trials if trial.history), key=lambda trial: trial.best)
    keys = [*outcome.setting, outcome.metric]
    columns = [[trial.setting[key] for trial in trials] for key in keys[:-1]] + [[trial.best for trial in trials]]
    figure = Figure(figsize=(1.8 * len(keys) + 1, 4), layout="constrained")
    axes = figure.subplots()
    for number, trial in enumerate(trials):
        share = (number + 1) / len(trials)
        heights = [_height(column, column[number], key) for key, column in zip(keys, columns, strict=True)]
        last = trial is outcome.best
        axes.plot(heights, color="C3" if last else str(0.85 * (1 - share)), linewidth=2.5 if last else 1)
    for place, column in enumerate(columns):
        axes.axvline(place, color="0.7", linewidth=0.8)
        axes.text(place, -0.04, f"{min(column):.3g}", ha="center", va="top", fontsize=8)
        axes.text(place, 1.04, f"{max(column):.3g}", ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(keys)), keys)
    axes.set_yticks([])
    axes.set_ylim(-0.15, 1.15)
    axes.set_title(f"{outcome.task}: settings and what they reached, the best in red")
    figure.savefig(path, dpi=100)


def _height(column: list[float], value: float, key: str) -> float:
    """Place of a value between the lowest and the highest, by its logarithm where there is one."""
    from math import log

    if min(column) > 0:
        column, value = [log(each) for each in column], log(value)
    low, high = min(column), max(column)
    return 0.5 if low == high else (value - low) / (high - low)


def _progress(outcome: Outcome, path: Path) -> None:
    """The metric of each trial, epoch by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for trial in outcome.trials:
        if trial.history:
            label = "before" if trial is outcome.before else "best" if trial is outcome.best else None
            color = "C0" if trial is outcome.before else "C3" if trial is outcome.best else "0.7"
            axes.plot(*zip(*trial.history, strict=True), marker="o", color=color, label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel(outcome.metric)
    axes.set_title(f"{outcome.task}: validation by epoch")
    axes.legend()
    figure.savefig(path, dpi=100)
