"""MLflow: values arrive; a store that dies neither stops training nor loses what was logged."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from albef import tasks
from albef.training.tracking import EXPERIMENT, start_run
from tests.worlds import tiny_config


def _values(uri: str, key: str) -> dict[int, float]:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return {m.step: m.value for run in runs for m in client.get_metric_history(run.info.run_id, key)}


@pytest.mark.slow
def test_sqlite_gets_parameters_and_metrics(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    folder = tmp_path / "scratch" / "run"
    folder.mkdir(parents=True)
    for steps in (range(3), range(3, 5)):  # the second is the run resumed
        with start_run("pretrain", tiny_config(), folder, uri) as tracker:
            for step in steps:
                tracker.log_metrics({"loss": float(step)}, step)
    assert _values(uri, "loss") == {step: float(step) for step in range(5)}
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])  # type: ignore[union-attr]
    assert run.data.params["model.vision.width"] == "32"
    assert run.data.tags["task"] == "pretrain"
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_runs_of_every_task_are_told_apart(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for name in tasks.names():
        with start_run(name, tiny_config(), tmp_path / name, uri) as tracker:
            tracker.log_metrics({"loss": 1.0}, 1)
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])  # type: ignore[union-attr]
    seeds = {
        run.data.tags["task"]: run.data.params.get("train.seed") or run.data.params["train.train.seed"] for run in runs
    }
    assert seeds == {name: str(tasks.get(name).train_config(tiny_config()).seed) for name in tasks.names()}


@contextmanager
def _server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder)]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                assert time.monotonic() < deadline, (folder / "server.log").read_text()
                time.sleep(0.3)
        yield process
    finally:
        subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
        process.wait(10)


@pytest.mark.slow
def test_a_server_that_dies_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("albef.training.tracking._CLOSE_SECONDS", 4.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    first, second = tmp_path / "scratch" / "first", tmp_path / "scratch" / "second"
    first.mkdir(parents=True)
    second.mkdir()
    with _server(tmp_path, port) as server, start_run("pretrain", tiny_config(), first, uri) as tracker:
        tracker.log_metrics({"loss": 0.0}, 0)
        deadline = time.monotonic() + 60
        while not (first / "mlflow-run-id").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        subprocess.run(["pkill", "-KILL", "-s", str(server.pid)], check=True)
        server.wait(10)
        before = time.monotonic()
        for step in range(1, 50):
            tracker.log_metrics({"loss": float(step)}, step)
        assert time.monotonic() - before < 0.5  # logging never waits for the store
    assert (tmp_path / "scratch" / "tracking-pending.jsonl").exists()

    monkeypatch.setattr("albef.training.tracking._CLOSE_SECONDS", 60.0)
    with _server(tmp_path, port):
        with start_run("pretrain", tiny_config(), second, uri) as tracker:
            tracker.log_metrics({"other": 1.0}, 0)
        assert _values(uri, "loss") == {step: float(step) for step in range(50)}
    assert not (tmp_path / "scratch" / "tracking-pending.jsonl").exists()
