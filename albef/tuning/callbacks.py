"""What Ray calls while it searches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune import Callback

from albef.tuning import search_state


class Recorder(Callback):
    """Keeps validations and states as they come, and removes what nothing will go on from.

    Args:
        work: Folder of the search, with a folder for each trial.
        metric: That trials tell.
    """

    def __init__(self, work: Path, metric: str) -> None:
        self.work, self.metric = work, metric
        self._seen = 0

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Write down a validation."""
        if self.metric in result:
            search_state.tell(self.work, trial.trial_id, int(result["epoch"]), float(result[self.metric]))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Keep Ray's state if it is new; only then is what trials had that are over by it of no use."""
        if not trials:
            return
        written = Path(trials[0].storage.experiment_driver_staging_path)
        stamp = max((path.stat().st_mtime_ns for path in written.glob(search_state.STATES)), default=0)
        if stamp == self._seen:
            return
        self._seen = stamp
        if search_state.keep(written, self.work):
            for trial in trials:
                if trial.status == "TERMINATED":
                    search_state.discard(self.work, trial.trial_id)
