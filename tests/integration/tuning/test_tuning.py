"""Hyperparameter search with a real Ray cluster."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from ray import tune
from ruamel.yaml import YAML

from albef import cli
from albef.config import ConfigError, TuneConfig, load, overlay, read, to_dict
from albef.data.tokenizer import Encoder
from albef.tasks.base import task_class
from albef.tuning import results, search, space, trial
from albef.tuning.callbacks import Recorder
from albef.tuning.results import Outcome, SearchError, Trial
from albef.tuning.resumable_optuna import ResumableLimiter, ResumableOptunaSearch
from albef.tuning.search_state import read_validations, remove, restore
from albef.tuning.space import SpaceError
from albef.weights import checkpoint
from tests import ROOT
from tests.served import random_model
from tests.worlds import color_world, tiny_config

KEYS = ("optim.lr", "optim.warmup_steps", "alpha")


CONFIG = dataclasses.replace(
    tiny_config(),
    tune=TuneConfig(
        tasks=["retrieval", "vqa", "entailment"],
        trials=4,
        concurrent=1,
        cpus_per_trial=1,
        gpus_per_trial=0,
        grace_epochs=1,
        seed=0,
        epochs=None,
        rows=32,
    ),
)


@pytest.fixture
def config():
    return CONFIG


def test_the_space_lies_around_the_present_setting(config):
    found = space.space_of(config, "vqa", {})
    assert set(found) == set(KEYS)
    train = config.tasks.vqa.train
    assert found["optim.lr"] == ("loguniform", train.optim.lr / 4, train.optim.lr * 4)
    assert found["optim.warmup_steps"] == ("lograndint", train.optim.warmup_steps / 4, train.optim.warmup_steps * 4)
    assert found["alpha"] == ("uniform", 0.0, 0.8)
    far = overlay(config, space.as_params("vqa", {"alpha": 0.95, "optim.warmup_steps": 0}))
    assert space.space_of(far, "vqa", {})["alpha"] == ("uniform", 0.0, 0.95)
    assert "optim.warmup_steps" not in space.space_of(far, "vqa", {})
    assert space.space_of(config, "retrieval", {"temperature": 0.01})["temperature"] == ("loguniform", 0.01, 0.3)
    set_ = overlay(config, space.as_params("retrieval", {"temperature": 0.5}))
    assert space.space_of(set_, "retrieval", {"temperature": 0.01})["temperature"] == ("loguniform", 0.02, 0.5)


@given(st.floats(1e-6, 1.0), st.integers(1, 5000), st.floats(0.0, 1.0))
def test_what_is_now_is_among_what_may_be(lr, warmup, alpha):
    config = overlay(CONFIG, space.as_params("vqa", dict(zip(KEYS, (lr, warmup, alpha), strict=True))))
    for key, (kind, low, high) in space.space_of(config, "vqa", {}).items():
        assert low <= space.current_value(config, "vqa", key, {}) <= high
        assert low < high
        assert low > 0 or not kind.startswith("log")


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"optim.rate": ("uniform", 0.0, 1.0)}, r"vqa.search_space: optim.rate: not a key of tasks.vqa.train"),
        ({"optim.kind": ("uniform", 0.0, 1.0)}, r"optim.kind: expected a number in tasks.vqa.train, got 'muon'"),
        ({"alpha": ("normal", 0.0, 1.0)}, "alpha: expected one of uniform, loguniform, randint, factor, got 'normal'"),
        ({"alpha": ("uniform", 1.0, 0.0)}, "alpha: expected ascending bounds"),
        ({"optim.lr": ("loguniform", 0.0, 1.0)}, "above 0 for loguniform"),
        ({}, "vqa: the task declares no search space"),
    ],
)
def test_a_space_that_does_not_fit_is_named(config, monkeypatch, declared, words):
    monkeypatch.setattr(task_class("vqa"), "search_space", classmethod(lambda cls: declared))
    with pytest.raises(SpaceError, match=words):
        space.space_of(config, "vqa", {})
    with pytest.raises(SpaceError, match="nonsense: .* expected one of entailment, grounding, nlvr2, retrieval, vqa"):
        space.space_of(config, "nonsense", {})


def test_a_temperature_of_the_parameters_is_where_training_starts(config, tmp_path):
    world = color_world(tmp_path / "world")
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    for name in ("retrieval", "grounding"):
        task = task_class(name)(config, encoder)
        task.begin()
        assert task.model.temperature.item() == pytest.approx(config.model.temperature)
        task = task_class(name)(overlay(config, space.as_params(name, {"temperature": 0.2})), encoder)
        task.begin()
        assert task.model.temperature.item() == pytest.approx(0.2)


def test_a_setting_becomes_parameters(config, tmp_path):
    setting = {"optim.lr": 0.002, "optim.warmup_steps": 7, "alpha": 0.1}
    with (tmp_path / "best.yaml").open("w") as file:
        YAML().dump(space.as_params("vqa", setting), file)
    tuned = overlay(config, read(tmp_path / "best.yaml"))
    assert (tuned.tasks.vqa.train.optim.lr, tuned.tasks.vqa.train.optim.warmup_steps) == (0.002, 7)
    assert tuned.tasks.vqa.train.alpha == 0.1
    assert tuned.tasks.entailment == config.tasks.entailment
    with pytest.raises(ConfigError, match=r"tasks.vqa.train.alpho: unknown key"):
        overlay(config, space.as_params("vqa", {"alpho": 1.0}))
    with pytest.raises(ConfigError, match=r"tasks.vqa.train.alpha: expected float"):
        overlay(config, space.as_params("vqa", {"alpha": "much"}))
    short = dataclasses.replace(config, tune=dataclasses.replace(config.tune, epochs=2))
    assert space.trial_config(short, "vqa", setting).tasks.vqa.train.epochs == 2


def test_the_best_is_the_first_of_equals(tmp_path):
    setting = {"optim.lr": 1e-3, "alpha": 0.4}
    trials = [
        Trial("a", setting, [(1, 0.5), (2, 0.4)], ""),
        Trial("b", {"optim.lr": 1e-4, "alpha": 0.1}, [(1, 0.5)], ""),
        Trial("c", {"optim.lr": 1e-2, "alpha": 0.2}, [], "ValueError: loss is nan"),
    ]
    outcome = Outcome("vqa", "accuracy", setting, trials)
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
    for name in ("parallel", "progress"):
        assert (tmp_path / "out" / "plots" / f"{name}.png").stat().st_size > 5000
    better = Outcome("vqa", "accuracy", setting, [*trials, Trial("d", {**setting, "alpha": 0.3}, [(1, 0.6)], "")])
    results.write(better, tmp_path / "out")
    assert read(tmp_path / "out" / "best.yaml") == space.as_params("vqa", {"optim.lr": 1e-3, "alpha": 0.3})
    with pytest.raises(SearchError, match="vqa: no trial"):
        Outcome.from_ray([], tmp_path, "vqa", "accuracy", setting)


def test_no_trial_is_no_search(config, tmp_path):
    world = color_world(tmp_path / "world")
    still = dataclasses.replace(config, tune=dataclasses.replace(config.tune, trials=0))
    checkpoint.save(random_model(world, config, task="pretrain"), world / "pretrain" / "model.pth")
    (world / "lists" / "vqa_val.json").unlink()  # nothing to judge by
    folders = (world / "lists", world, world / "tokenizer", world / "pretrain", tmp_path / "out")
    assert search.run(still, "vqa", *folders, tmp_path / "scratch", "none").trials == []
    assert overlay(still, read(tmp_path / "out" / "best.yaml")) == still
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {}
    with pytest.raises(SpaceError, match=r"vqa: a search needs a validation split; missing: vqa_val.json"):
        search.run(config, "vqa", *folders, tmp_path / "scratch", "none")
    assert (
        tmp_path / "out" / "trials.csv"
    ).read_text() == "trial,accuracy,epochs,optim.lr,optim.warmup_steps,alpha,error\n"


def test_a_search_goes_on_from_a_whole_state_or_not_at_all(tmp_path):
    session, work, folder = (tmp_path / name for name in ("session", "work", "ray"))
    for path in (session, work, folder):
        path.mkdir()
    trials = [
        types.SimpleNamespace(
            trial_id=name, status=status, storage=types.SimpleNamespace(experiment_driver_staging_path=str(session))
        )
        for name, status in (("a", "TERMINATED"), ("b", "RUNNING"))
    ]
    for name in "ab":
        (work / name / "scratch").mkdir(parents=True)
    state, searcher = session / "experiment_state-2.json", session / "searcher-state-2.pkl"
    recorder = Recorder(work, "accuracy")
    state.write_text('{"trial_data": []}')
    recorder.on_step_end(0, trials)
    assert not restore(work, folder)  # no trial, no search
    folder.mkdir()
    for number in range(12):
        state.write_text(f'{{"trial_data": [{number}]}}')
        searcher.write_text(f"searcher {number}")
        os.utime(state, ns=(number, number))
        recorder.on_step_end(number, trials)
    assert [path.name for path in work.glob("state*")] == ["state-11"]
    assert [path.parent.name for path in work.glob("*/scratch")] == ["b"]
    shutil.copytree(work / "state-11", work / "state.part")  # killed while the next was copied
    (folder / "tuner.pkl").touch()
    (folder / "experiment_state-1.json").write_text('{"trial_data": [1')  # half of one
    (folder / "experiment_state-3.json").write_text("")
    assert restore(work, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "tuner.pkl": "", state.name: '{"trial_data": [11]}', searcher.name: "searcher 11"
    }  # fmt: skip
    (folder / "tuner.pkl").unlink()
    assert not restore(work, folder)
    assert not folder.exists()
    folder.mkdir()
    (folder / "tuner.pkl").touch()  # of a search that begins
    assert not restore(work, folder)
    remove(work, folder)
    assert {path.name for path in tmp_path.iterdir()} == {"session"}


def test_what_trials_told(tmp_path):
    recorder, first = Recorder(tmp_path, "accuracy"), types.SimpleNamespace(trial_id="a")
    for result in ({"epoch": 1, "accuracy": 0.5}, {"epoch": 2, "accuracy": 0.25}, {"done": True}):
        recorder.on_trial_result(0, [], first, result)
    with (tmp_path / "a" / "told.jsonl").open("a") as file:
        file.write("\n[3, 0.")  # killed
    recorder.on_trial_result(0, [], first, {"epoch": 2, "accuracy": 0.25})
    recorder.on_trial_result(0, [], first, {"epoch": 3, "accuracy": 0.75})
    assert read_validations(tmp_path, "a") == [(1, 0.5), (2, 0.25), (3, 0.75)]
    assert read_validations(tmp_path, "b") == []


def test_a_searcher_that_knows_other_trials_goes_on(tmp_path):
    def made() -> ResumableLimiter:
        found = ResumableLimiter(ResumableOptunaSearch(seed=0), max_concurrent=1)
        found.set_search_properties("accuracy", "max", {"alpha": tune.uniform(0.0, 1.0)})
        return found

    first, again = made(), made()
    assert first.suggest("lost")  # in the searcher's state alone
    assert first.suggest("waits") is None
    again.set_state(first.get_state())
    first.searcher.save(str(tmp_path / "searcher"))
    again.searcher.restore(str(tmp_path / "searcher"))
    again.on_trial_result("unknown", {"accuracy": 0.5, "training_iteration": 1})  # in Ray's state alone
    again.on_trial_complete("unknown", {"accuracy": 0.5})
    assert again.suggest("next")
    assert again.suggest("waits") is None
    again.on_trial_complete("next", {"accuracy": 0.7})
    again.on_trial_complete("lost", {"accuracy": 0.6})  # resumed, after all
    assert [trial.value for trial in again.searcher._ot_study.trials] == [0.6, 0.7]


class _Context:
    """Context of a trial in a session of Ray."""

    def __init__(self, session: Path) -> None:
        self.session = session

    def get_trial_id(self) -> str:
        return "abc"

    def get_trial_dir(self) -> str:
        return str(self.session / "run_abc_1")


def test_a_killed_trial_goes_on_in_another_session(config, tmp_path, monkeypatch):
    world = color_world(tmp_path / "world")
    checkpoint.save(random_model(world, config, task="pretrain"), world / "pretrain" / "model.pth")
    folders = (world / "lists", world, world / "tokenizer", world / "pretrain")
    inputs = trial.Inputs(
        *folders, tmp_path / "scratch" / "runs", f"sqlite:///{tmp_path}/mlflow.db", None, {"stage": "tune"}
    )
    told: list[int] = []

    def report(metrics):
        told.append(metrics["epoch"])
        if len(told) in (2, 4):
            raise SystemExit(0)  # as Ray ends a thread

    monkeypatch.setattr(tune, "report", report)
    setting = {"optim.lr": 1e-3}
    client = MlflowClient(inputs.uri)
    for session, status in (("first", "KILLED"), ("second", "FINISHED")):
        monkeypatch.setattr(tune, "get_context", lambda session=session: _Context(tmp_path / session))
        with pytest.raises(SystemExit):
            trial.run(setting, config, "entailment", inputs)
        (run,) = client.search_runs([client.get_experiment_by_name("albef").experiment_id])
        assert (run.info.run_name, run.info.status) == ("run_abc_1", status)
    assert told == [1, 2, 2, 3]
    assert [row.step for row in client.get_metric_history(run.info.run_id, "val_accuracy")] == [4, 8, 8, 12]
    monkeypatch.setattr(tune, "report", lambda metrics: None)
    trial.run(setting, config, "entailment", inputs)  # killed after its last checkpoint, and resumed
    (run,) = client.search_runs([run.info.experiment_id])
    assert run.info.status == "FINISHED"
    assert not list(inputs.trials_dir.glob("**/*.pth"))


def living(place: str) -> list[str]:
    """Return the command lines of processes that contain a path."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if place in words:
            found.append(words)
    return found


def test_a_killed_search_goes_on_and_its_best_feeds_finetune(config, tmp_path):
    world = tmp_path / "world"
    color_world(world)
    checkpoint.save(random_model(world, config, task="pretrain"), world / "pretrain" / "model.pth")
    YAML().dump(to_dict(config), tmp_path / "params.yaml")
    params = ["--params", str(tmp_path / "params.yaml")]
    folders = {"lists": world / "lists", "images": world, "tokenizer": world / "tokenizer", "init": world / "pretrain"}
    common = [part for name, path in folders.items() for part in (f"--{name}", str(path))]
    store, out = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "tuned"
    command = [sys.executable, "-m", "albef.cli", "tune", "entailment", *params, *common, "--out", str(out)]
    command += ["--work-dir", str(tmp_path / "scratch"), "--tracking-uri", store]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def trials() -> list[tuple[Path, int]]:
        """Return the folders of trials that have reported, in order, with the number of reports."""
        files = sorted(tmp_path.glob("scratch/*-runs/*/told.jsonl"), key=lambda path: path.stat().st_ctime_ns)
        return [(path.parent, len(path.read_text().splitlines()) - 1) for path in files]

    with subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True) as search:
        deadline = time.monotonic() + 200
        while len(trials()) < 2 and search.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(search.pid, signal.SIGKILL)
    assert not out.exists()
    (first, count), (second, _) = trials()
    assert (second / "scratch").exists()
    assert not (first / "scratch").exists()  # it was over
    deadline = time.monotonic() + 20
    while living("ray/session") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not living(f"{tmp_path}")

    said = tmp_path / "said"
    with said.open("w") as file:  # no pipe: whoever holds it would be waited for
        subprocess.run(command, cwd=tmp_path, env=environment, stdout=file, stderr=file, timeout=240, check=False)
    assert "resuming the interrupted search" in said.read_text()
    assert "before" in said.read_text()
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    (present,) = (row for row in rows if row["trial"].endswith("_1"))
    assert present["trial"].split("_")[1] == first.name
    assert max(float(row["accuracy"]) for row in rows) >= float(present["accuracy"])
    assert not list((tmp_path / "scratch").iterdir())

    client = MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("albef").experiment_id])
    (parent,) = [run for run in runs if run.info.run_name == "tune entailment"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 4
    tags = ("stage", "task", "data", "git_commit")
    for run in children:
        assert [run.data.tags.get(key) for key in tags] == [parent.data.tags.get(key) for key in tags]
    (before,) = [run for run in children if f"_{first.name}_" in run.info.run_name]
    assert len(client.get_metric_history(before.info.run_id, "val_accuracy")) == count  # not run again
    whole = {run.info.run_name.split("_")[1] for run in children if run.info.status == "FINISHED"}
    epochs = str(config.tasks.entailment.train.epochs)
    assert whole == {row["trial"].split("_")[1] for row in rows if row["epochs"] == epochs} != set()

    best = load(tmp_path / "params.yaml")
    best = overlay(best, read(out / "best.yaml")).tasks.entailment.train
    options = ["--out", str(tmp_path / "model"), "--work-dir", str(tmp_path / "s"), "--tracking-uri", "none"]
    assert cli.main(["finetune", "entailment", *params, *common, *options, "--tuned", str(out / "best.yaml")]) == 0
    with (tmp_path / "model" / "history.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert 0 < max(rates) <= best.optim.lr * 1.0001
