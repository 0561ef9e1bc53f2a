"""Ray Tune callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune import Callback

from albef.tuning import search_state


class Recorder(Callback):
    """Records validation metrics, saves Ray's state, and deletes obsolete checkpoints.

    Args:
        trials_dir: Folder of the search, with one subfolder per trial.
        metric: Name of the metric that trials report.
    """

    def __init__(self, trials_dir: Path, metric: str) -> None:
        self.trials_dir, self.metric = trials_dir, metric
        self._saved = 0

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record the metric of a validation."""
        if self.metric in result:
            search_state.record_validation(
                self.trials_dir, trial.trial_id, int(result["epoch"]), float(result[self.metric])
            )

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Save Ray's state if it changed, and discard finished trials.

        A trial's checkpoints are deleted only once a saved state contains its end.
        """
        if not trials:
            return
        staging = Path(trials[0].storage.experiment_driver_staging_path)
        mtime = max((path.stat().st_mtime_ns for path in staging.glob(search_state.STATES)), default=0)
        if mtime == self._saved:
            return
        self._saved = mtime
        if search_state.save(staging, self.trials_dir):
            for trial in trials:
                if trial.status == "TERMINATED":
                    search_state.discard_trial(self.trials_dir, trial.trial_id)
