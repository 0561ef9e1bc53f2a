"""Studies that are killed and opened again."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from albef.tuning.ray_adapters import StudyScheduler, StudySearcher
from albef.tuning.results import Outcome, SearchError
from albef.tuning.study import DATABASE, NAME, Study
from tests.integration.tuning.studies import SETTING, SETTINGS, SPACE, opened, search

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.integration.tuning.studies import opened, search
search(opened(Path(sys.argv[1])), int(sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def stored(folder: Path) -> list[tuple[Any, ...]]:
    study = optuna.load_study(study_name=NAME, storage=f"sqlite:///{folder / DATABASE}")
    return [(trial.params, trial.state, trial.value, trial.intermediate_values) for trial in study.trials]


def test_a_killed_study_goes_on_and_makes_the_same_proposals(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    search(opened(whole), -1)
    done = subprocess.run([sys.executable, "-c", KILLED, str(killed), "4"], cwd=Path(__file__).parents[3])
    assert done.returncode == -9
    (first, *_) = before = stored(killed)
    assert (first[0], first[1]) == (SETTING, TrialState.COMPLETE)
    assert [state for _, state, _, _ in before[1:]] in ([TrialState.RUNNING], [TrialState.COMPLETE, TrialState.RUNNING])
    assert [path.name for path in sorted(killed.glob("[0-9]*"))] == [str(len(before) - 1)]  # of the trial under way
    study = opened(killed)
    search(study, -1)
    assert stored(killed) == stored(whole)
    outcome = Outcome.of(study.trials(), {}, "vqa", "accuracy", SETTING)
    assert [trial.name for trial in outcome.trials] == ["trial_1", "trial_2", "trial_3", "trial_4"]
    assert outcome.baseline.setting == SETTING
    assert outcome.best.best == max(value for _, _, value, _ in stored(whole))


def test_a_trial_that_falls_behind_is_stopped(tmp_path: Path) -> None:
    study = opened(tmp_path)
    first, second = study.propose()["number"], study.propose()["number"]
    assert not study.report(first, 1, 0.5)
    assert study.report(second, 1, 0.4)
    assert not study.report(first, 2, 0.3)
    assert study.report(first, 3, 0.6)
    assert [value for _, _, value, _ in stored(tmp_path)] == [0.6, 0.4]


def test_a_proposal_that_is_cut_off_is_made_again(tmp_path: Path) -> None:
    study = opened(tmp_path)
    study.study.ask({"alpha": study.distributions["alpha"]})  # killed before it had all values
    again = opened(tmp_path)
    assert again.propose()["setting"] == SETTING
    again.study.ask({"alpha": study.distributions["alpha"]})
    last = opened(tmp_path)
    assert [last.propose()["number"], last.propose()["number"]] == [1, 3]
    assert len(last.trials()) == 2


def test_ray_gets_the_trials_of_a_study(tmp_path: Path) -> None:
    study = opened(tmp_path)
    searcher, scheduler = StudySearcher(study), StudyScheduler(study, "accuracy")
    for resumed in (False, True):
        trial = SimpleNamespace(config=searcher.suggest("id"))
        assert trial.config == {"number": 0, "setting": SETTING}
        if not resumed:
            result = {"epoch": 1, "accuracy": 0.5}
            assert scheduler.on_trial_result(None, trial, result) == scheduler.CONTINUE
            searcher.on_trial_complete("id", error=True)  # it stays under way, for the next search
            study = opened(tmp_path)
            searcher, scheduler = StudySearcher(study), StudyScheduler(study, "accuracy")
    scheduler.on_trial_complete(None, trial, {})  # without another report
    assert [(state, value) for _, state, value, _ in stored(tmp_path)] == [(TrialState.COMPLETE, 0.5)]


def test_a_baseline_without_a_validation_is_an_error(tmp_path: Path) -> None:
    study = opened(tmp_path)
    study.propose()
    study.report(study.propose()["number"], 3, 0.5)
    with pytest.raises(SearchError):
        Outcome.of(study.trials(), {0: "ValueError: loss is nan"}, "vqa", "accuracy", SETTING)


def test_concurrent_proposals_differ(tmp_path: Path) -> None:
    study = Study(tmp_path, SPACE, SETTING, dataclasses.replace(SETTINGS, concurrent=3), 3)
    settings = [study.propose()["setting"] for _ in range(3)]
    assert settings[0] == SETTING
    assert len({setting["alpha"] for setting in settings}) == 3
