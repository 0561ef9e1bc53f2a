"""Ray Tune's view of a study: a searcher and a scheduler without state of their own."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from albef.tuning.study import Study


class StudySearcher(Searcher):
    """Gives Ray the trials that a study proposes."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        self.study = study

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Return the next trial."""
        return self.study.propose()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: `StudyScheduler` ends trials, and a failed one is repeated by the next search."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is saved."""


class StudyScheduler(FIFOScheduler):
    """Stops trials that a study considers over.

    Args:
        metric: Name of the metric that trials report.
    """

    def __init__(self, study: Study, metric: str) -> None:
        super().__init__()
        self.study, self.name = study, metric

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record the metric of a validation."""
        over = self.study.report(trial.config["number"], int(result["epoch"]), float(result[self.name]))
        return str(self.STOP if over else self.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """End a trial that was resumed after its last report."""
        self.study.finish(trial.config["number"])
