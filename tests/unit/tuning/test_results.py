"""Tests of the results of a search."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from albef.config import read
from albef.tuning import results
from albef.tuning.results import Outcome, SearchError, Trial

SETTING = {"optim.lr": 1e-3, "alpha": 0.4}


def test_the_best_is_the_first_of_equals(tmp_path: Path) -> None:
    trials = [
        Trial("a", SETTING, [(1, 0.5), (2, 0.4)], ""),
        Trial("b", {"optim.lr": 1e-4, "alpha": 0.1}, [(1, 0.5)], ""),
        Trial("c", {"optim.lr": 1e-2, "alpha": 0.2}, [], "ValueError: loss is nan"),
    ]
    outcome = Outcome("vqa", "accuracy", SETTING, trials)
    assert outcome.best is trials[0]
    results.write(outcome, tmp_path / "out")
    assert read(tmp_path / "out" / "best.yaml") == {"tasks": {"vqa": {"train": {}}}}  # nothing to change
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {
        "accuracy": 0.5, "accuracy_before": 0.5, "trials": 3
    }  # fmt: skip
    with (tmp_path / "out" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["a", "b", "c"]
    assert rows[2]["error"] == "ValueError: loss is nan"
    better = Outcome("vqa", "accuracy", SETTING, [*trials, Trial("d", {**SETTING, "alpha": 0.3}, [(1, 0.6)], "")])
    results.write(better, tmp_path / "out")
    assert read(tmp_path / "out" / "best.yaml") == results.as_params("vqa", {"optim.lr": 1e-3, "alpha": 0.3})


def test_a_search_without_a_validated_trial_has_no_outcome() -> None:
    with pytest.raises(SearchError):
        Outcome.of([], {}, "vqa", "accuracy", SETTING)
