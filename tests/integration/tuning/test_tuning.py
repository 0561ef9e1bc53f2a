"""Hyperparameter search with a real Ray cluster."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from ray import tune
from ruamel.yaml import YAML

from albef import cli
from albef.config import load, overlay, read, to_dict
from albef.tuning import search, trial
from albef.tuning.space import SpaceError
from albef.tuning.study import NAME
from albef.weights import checkpoint
from tests import ROOT
from tests.errors import refuses
from tests.served import random_model
from tests.worlds import color_world, tiny_config, tiny_tune, write_params

CONFIG = dataclasses.replace(
    tiny_config(checkpoint_every=1),
    tune=tiny_tune(epochs=2, rows=32, trials=3),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = color_world(tmp_path_factory.mktemp("tuning") / "world")
    checkpoint.save(random_model(folder, CONFIG, task="pretrain"), folder / "pretrain" / "model.pth")
    return folder


@pytest.mark.parametrize("change", [{"trials": 0}, {"tasks": ["retrieval"]}])
def test_no_trial_is_no_search(world: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    none = dataclasses.replace(CONFIG, tune=dataclasses.replace(CONFIG.tune, **change))
    params = str(write_params(none, tmp_path / "params.yaml"))
    folders = ["lists", "images", "tokenizer", "init"]  # none of which is read
    options = [part for name in folders for part in (f"--{name}", str(tmp_path / name))]
    assert cli.main(["tune", "vqa", "--params", params, *options, "--out", str(tmp_path / "out")]) == 0
    assert overlay(none, read(tmp_path / "out" / "best.yaml")) == none
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {}
    assert (tmp_path / "out" / "trials.csv").read_text().count("\n") == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"best.yaml", "metrics.json", "trials.csv"}


def test_a_search_needs_a_validation_split(world: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    folders = (tmp_path / "lists", world, world / "tokenizer", world / "pretrain", tmp_path / "out")
    with refuses(SpaceError, "vqa_val.json"):
        search.run(CONFIG, "vqa", *folders, tmp_path / "scratch", "none")


def test_a_killed_trial_resumes_at_its_checkpoint(
    world: Path, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, tune=dataclasses.replace(CONFIG.tune, epochs=3))
    parent = {"key": "key", "name": "tune", "start": 0}
    folders = (world / "lists", world, world / "tokenizer", world / "pretrain")
    inputs = trial.Inputs(*folders, tmp_path / "scratch" / "search", store, parent, {"stage": "tune"})
    epochs: list[int] = []

    def report(metrics: dict[str, int]) -> None:
        epochs.append(metrics["epoch"])
        if len(epochs) in (2, 4):
            raise SystemExit(0)  # as Ray ends a thread

    monkeypatch.setattr(tune, "report", report)
    proposal = {"number": 0, "setting": {"optim.lr": 1e-3}}
    client = MlflowClient(store)
    for status in ("KILLED", "FINISHED"):
        with pytest.raises(SystemExit):
            trial.run(proposal, config, "entailment", inputs)
        experiment = client.get_experiment_by_name("albef")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id], "run_name = 'trial_1'")
        assert run.info.status == status
    assert epochs == [1, 2, 2, 3]
    assert [row.step for row in client.get_metric_history(run.info.run_id, "val_accuracy")] == [4, 8, 12]
    monkeypatch.setattr(tune, "report", lambda metrics: None)
    trial.run(proposal, config, "entailment", inputs)  # killed before its end was recorded
    (run,) = client.search_runs([run.info.experiment_id], "run_name = 'trial_1'")
    assert run.info.status == "FINISHED"


@contextmanager
def _started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as file:  # no pipe, which Ray's processes would keep open
        process = subprocess.Popen(command, cwd=log.parent, env=environment, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_killed_search_goes_on_and_its_best_feeds_finetune(
    world: Path, tmp_path: Path, store: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    YAML().dump(to_dict(CONFIG), tmp_path / "params.yaml")
    params = ["--params", str(tmp_path / "params.yaml")]
    folders = {"lists": world / "lists", "images": world, "tokenizer": world / "tokenizer", "init": world / "pretrain"}
    common = [part for name, path in folders.items() for part in (f"--{name}", str(path))]
    out = tmp_path / "tuned"
    command = ["tune", "entailment", *params, *common, "--out", str(out)]
    command += ["--work-dir", str(tmp_path / "scratch"), "--tracking-uri", store]

    with _started([sys.executable, "-m", "albef.cli", *command], tmp_path / "log") as process:
        deadline = time.monotonic() + 300
        while not (found := list(tmp_path.glob("scratch/tune-*/1/scratch/checkpoint.pt"))):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # Ray's agents stay for a minute; all others end with the search.
        descendants = [
            each for each in psutil.Process(process.pid).children(recursive=True) if "Agent" not in each.name()
        ]
    killed_at = int(time.time() * 1000)
    assert not psutil.wait_procs(descendants, 30)[1]
    study = optuna.load_study(study_name=NAME, storage=f"sqlite:///{found[0].parents[2] / 'study.db'}")
    first, second = study.trials
    assert (first.state, second.state) == (TrialState.COMPLETE, TrialState.RUNNING)
    assert not (found[0].parents[2] / "0").exists()  # it was over
    assert not out.exists()

    assert cli.main(command) == 0
    assert "resuming the interrupted search" in caplog.text
    with (out / "trials.csv").open() as file:
        rows = {row["trial"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == ["trial_1", "trial_2", "trial_3"]
    train = CONFIG.tasks.entailment.train
    assert float(rows["trial_1"]["optim.lr"]) == train.optim.lr  # the current setting
    assert float(rows["trial_1"]["accuracy"]) == first.value
    assert float(rows["trial_2"]["optim.lr"]) == second.params["optim.lr"]
    assert not list((tmp_path / "scratch").iterdir())

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("albef")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop("tune entailment")
    assert parent.info.status == "FINISHED"
    assert runs.keys() == rows.keys()
    for run in runs.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        for tag in ("stage", "task", "data", "git_commit"):
            assert run.data.tags.get(tag) == parent.data.tags.get(tag)
    assert runs["trial_1"].info.end_time < killed_at  # not run again
    whole = {name for name, run in runs.items() if run.info.status == "FINISHED"}
    assert whole == {name for name, row in rows.items() if row["epochs"] == "2"} != set()
    assert runs["trial_2"].info.start_time < killed_at < runs["trial_2"].info.end_time  # the same run, resumed
    losses = client.get_metric_history(runs["trial_2"].info.run_id, "loss")
    assert len({row.step for row in losses}) == len(losses)

    best = overlay(load(tmp_path / "params.yaml"), read(out / "best.yaml")).tasks.entailment.train
    options = ["--out", str(tmp_path / "model"), "--work-dir", str(tmp_path / "s"), "--tracking-uri", "none"]
    assert cli.main(["finetune", "entailment", *params, *common, *options, "--tuned", str(out / "best.yaml")]) == 0
    with (tmp_path / "model" / "history.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert 0 < max(rates) <= best.optim.lr * 1.0001
