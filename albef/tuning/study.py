"""Optuna study of a search in SQLite, which a kill at any time leaves consistent."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from albef.config import TuneConfig
    from albef.tuning.space import Space

DATABASE = "study.db"
NAME = "search"


class Study:
    """Trials of a search, and the decisions to propose and to stop them.

    Args:
        folder: Folder of the search, with one subfolder per trial.
        setting: The first trial.
        epochs: Epochs of a trial.
    """

    def __init__(
        self, folder: Path, space: Space, setting: Mapping[str, Any], settings: TuneConfig, epochs: int
    ) -> None:
        logging.getLogger("optuna").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.folder, self.seed, self.epochs = folder, settings.seed, epochs
        self.distributions = {key: _distribution(*bounds) for key, bounds in space.items()}
        self.storage = RDBStorage(f"sqlite:///{folder / DATABASE}")
        grace = max(min(settings.grace_epochs, epochs), 1)
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=grace, reduction_factor=4)
        self.study = optuna.create_study(
            storage=self.storage, study_name=NAME, direction="maximize", pruner=pruner, load_if_exists=True
        )
        for trial in self.trials():
            if trial.params.keys() != space.keys():  # killed while it was proposed
                self.study.tell(trial.number, state=TrialState.FAIL)
        self._interrupted = [trial for trial in self.trials() if not trial.state.is_finished()]
        if not self.trials() and not self.study.get_trials(states=(TrialState.WAITING,)):
            self.study.enqueue_trial(dict(setting))

    def trials(self) -> list[FrozenTrial]:
        """Return the trials that are over or under way, in order."""
        return self.study.get_trials(states=(TrialState.RUNNING, TrialState.COMPLETE))

    @property
    def num_finished(self) -> int:
        """Number of trials that are over."""
        return sum(trial.state.is_finished() for trial in self.trials())

    def propose(self) -> dict[str, Any]:
        """Return ``number`` and ``setting`` of an interrupted trial, or else of a new one."""
        trial: Any
        if self._interrupted:
            trial = self._interrupted.pop(0)
        else:  # a seed per trial, because a resumed search makes the proposals of an uninterrupted one
            self.study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(self.trials()))
            trial = self.study.ask(self.distributions)
        return {"number": trial.number, "setting": {key: trial.params[key] for key in self.distributions}}

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Record the metric of a validation, and return whether the trial is over."""
        study_id = self.storage.get_study_id_from_name(NAME)
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, number)
        self.storage.set_trial_intermediate_value(trial_id, epoch, value)
        over = epoch >= self.epochs or self.study.pruner.prune(self.study, self.study.trials[number])
        if over:
            self.finish(number)
        return over

    def finish(self, number: int) -> None:
        """End a trial, and delete its folder."""
        values = self.study.trials[number].intermediate_values.values()
        self.study.tell(number, max(values, default=float("-inf")), skip_if_finished=True)
        shutil.rmtree(self.folder / str(number), ignore_errors=True)


def _distribution(kind: str, low: float, high: float) -> BaseDistribution:
    log = kind.startswith("log")
    if kind.endswith("randint"):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)
