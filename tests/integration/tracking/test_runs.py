"""Training stages as MLflow runs."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import mlflow.data
import pytest
from mlflow import MlflowClient

from albef.tasks import registry
from albef.tasks.base import task_class
from albef.tracking.runs import start_run
from albef.tracking.tracker import EXPERIMENT
from albef.training import run
from albef.training.state import digest_of
from tests.integration.tracking.stores import files, runs, values
from tests.worlds import color_world, tiny_config


def test_a_resumed_run_is_one_run(tmp_path: Path, store: str) -> None:
    folder = tmp_path / "scratch" / "run"
    folder.mkdir(parents=True)
    for steps in (range(3), range(2, 5)):  # the second is the run resumed, which repeats a step
        with start_run("pretrain", tiny_config(), folder, store) as tracker:
            for step in steps:
                tracker.log_metrics({"loss": float(step)}, step)
    assert values(store, "pretrain", "loss") == [(step, float(step)) for step in range(5)]
    found = runs(store)["pretrain"]
    assert found.data.params["model.vision.width"] == "32"
    assert found.data.tags["task"] == "pretrain"
    assert found.info.status == "FINISHED"
    assert not (tmp_path / "scratch" / "tracking").exists()  # nothing is left to send


def test_runs_of_every_task_are_told_apart(tmp_path: Path, store: str) -> None:
    for name in registry.names():
        with start_run(name, tiny_config(), tmp_path / name, store) as tracker:
            tracker.log_metrics({"loss": 1.0}, 1)
    client = MlflowClient(tracking_uri=store)
    found = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])  # type: ignore[union-attr]
    seeds = {r.data.tags["task"]: r.data.params.get("train.seed") or r.data.params["train.train.seed"] for r in found}
    assert seeds == {name: str(task_class(name).train_config(tiny_config()).seed) for name in registry.names()}


def test_a_training_leaves_tags_system_metrics_and_files(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = color_world(tmp_path / "world", 16)
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "x"], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "the-stage")
    monkeypatch.setenv("ALBEF_FLOW_RUN", "amber-fox")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    out = tmp_path / "out"
    folders = (world / "lists", world, world / "tokenizer", out)
    run.run(tiny_config(epochs=2), "pretrain", *folders, work_dir=tmp_path / "scratch", tracking_uri=store)

    found = runs(store)["pretrain"]
    files_read = [world / "tokenizer" / "tokenizer.json", world / "lists" / "pretrain.json"]
    expected = {
        "git_commit": head.stdout.strip(),
        "mlflow.source.git.commit": head.stdout.strip(),
        "dvc_lock": hashlib.md5(b"schema: '2.0'\n").hexdigest(),
        "data": digest_of(files_read),
        "mlflow.source.name": "albef pretrain",
        "stage": "the-stage",
        "flow_run": "amber-fox",
    }
    assert expected.items() <= found.data.tags.items()
    (read,) = found.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("pretrain", expected["data"][:36])
    source = mlflow.data.get_source(read.dataset)
    assert Path(source.load()).samefile(files_read[1])  # type: ignore[attr-defined]
    assert files(store, "pretrain") == {"config.json", "history.csv", "metrics.json"}
    stored = MlflowClient(tracking_uri=store).download_artifacts(found.info.run_id, "history.csv", str(tmp_path))
    assert Path(stored).read_bytes() == (out / "history.csv").read_bytes()
    for name in ("cpu_utilization_percentage", "system_memory_usage_megabytes", "network_receive_megabytes"):
        assert values(store, "pretrain", f"system/{name}")
    assert found.data.metrics["system/system_memory_usage_megabytes"] > 1
    assert found.data.metrics["final_loss"] == pytest.approx(found.data.metrics["loss"])
