"""Optuna search algorithm that survives an interrupted search.

Ray saves the trials and the searcher's state one after the other, so a kill in between leaves them inconsistent. A
trial that only the searcher has recorded as running would occupy its slot forever, and a trial that the searcher has
not recorded would raise an error.
"""

from __future__ import annotations

from typing import Any

from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch


class ResumableOptunaSearch(OptunaSearch):
    """Optuna search that ignores results of trials missing from its state."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on the metric of a validation."""
        if trial_id in self._ot_trials:
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on the last metric of a trial."""
        if trial_id in self._ot_trials:
            super().on_trial_complete(trial_id, result, error)


class ResumableLimiter(ConcurrencyLimiter):
    """Limit on concurrent new trials; resumed trials do not count towards it."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the state, except for the set of running trials."""
        super().set_state({**state, "live_trials": set(), "num_unfinished_live_trials": 0})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Free the trial's slot, if it has one, and inform the searcher."""
        if trial_id in self.live_trials:
            super().on_trial_complete(trial_id, result, error)
        else:
            self.searcher.on_trial_complete(trial_id, result, error)
