"""Optuna's proposals, such that a search that was killed at any moment goes on.

Ray saves the trials and what the searcher knows of them one after the other. Killed in between, the two differ: a trial
that the searcher counts as running and that nobody knows would then keep its place for ever, and one that the searcher
does not know would stop the search.
"""

from __future__ import annotations

from typing import Any

from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch


class Proposals(OptunaSearch):
    """Learns nothing from trials that it does not know."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on the metric of a validation."""
        if trial_id in self._ot_trials:
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on the last metric of a trial."""
        if trial_id in self._ot_trials:
            super().on_trial_complete(trial_id, result, error)


class Limit(ConcurrencyLimiter):
    """Counts the trials that it proposed itself; those that are resumed run beside them while there is room."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore all but who was running."""
        super().set_state({**state, "live_trials": set(), "num_unfinished_live_trials": 0})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Make room, and tell the searcher."""
        if trial_id in self.live_trials:
            super().on_trial_complete(trial_id, result, error)
        else:
            self.searcher.on_trial_complete(trial_id, result, error)
