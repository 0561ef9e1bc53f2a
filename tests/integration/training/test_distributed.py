"""Training with workers of Ray, on machines that come and go."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from albef import workers
from albef.config import Config
from albef.training import run
from albef.training.step import TrainingError
from tests.errors import refuses
from tests.worlds import color_world, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("distributed") / "world")


def _config(dropout: float = 0.1, workers: int = 2, **train: object) -> Config:
    config = tiny_config(**{"epochs": 2, "checkpoint_every": 2, "augment": "none", **train})
    text = dataclasses.replace(config.model.text, dropout=dropout)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, text=text),
        distributed=dataclasses.replace(config.distributed, world_size=workers),
    )


def _train(
    config: Config, world: Path, out: Path, task: str = "pretrain", init: Path | None = None
) -> dict[str, float]:
    folders = (world / "lists", world, world / "tokenizer", out)
    return run.run(config, task, *folders, init=init, work_dir=out / "scratch", tracking_uri="none")


def test_what_cannot_go_on_is_said_once(world: Path, tmp_path: Path) -> None:
    with refuses(ValueError, "batch_size", 8, 5):
        _train(_config(workers=5), world, tmp_path)
    config = _config()
    settings = dataclasses.replace(config.distributed, min_world_size=3)
    with refuses(TrainingError, "distributed.min_world_size", 3, 2):
        _train(dataclasses.replace(config, distributed=settings), world, tmp_path)
    rows = json.loads((world / "lists" / "pretrain.json").read_text())
    rows[7]["image"] = "images/lost.png"  # which one of the two finds, while the other waits for it
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "pretrain.json").write_text(json.dumps(rows))
    with refuses(TrainingError, "images/lost.png"):
        run.run(_config(), "pretrain", lists, world, world / "tokenizer", tmp_path, None, tmp_path / "scratch", "none")
    assert not (tmp_path / "model.pth").exists()


def _resumed(records: list[logging.LogRecord]) -> list[int]:
    """Return the numbers of devices of resumed runs, in order."""
    return [int(record.getMessage()[-1]) for record in records if "resuming at step" in record.getMessage()]


def test_a_lost_machine_shrinks_the_job_and_a_new_one_grows_it(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "RESIZE_SECONDS", 1.0)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")  # how long Ray tries to start on a lost machine
    config = _config(epochs=500, checkpoint_every=20)
    elastic = dataclasses.replace(config.distributed, min_world_size=1, max_failures=3)
    # Seconds instead of a minute; fewer would give up a machine that a busy CPU slows down.
    impatient = {"health_check_period_ms": 1000, "health_check_failure_threshold": 8}
    first = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": impatient})
    others = [_machine(first.address)]

    def change_machines() -> None:
        try:
            _wait(lambda: list(tmp_path.glob("scratch/pretrain-*/checkpoint.pt")))
            _kill(others.pop())
            _wait(lambda: _resumed(caplog.records) == [1])
            others.append(_machine(first.address))
            _wait(lambda: _resumed(caplog.records)[-1] == 2)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    changer = threading.Thread(target=change_machines)
    try:
        monkeypatch.setenv("RAY_ADDRESS", first.address)
        changer.start()
        with pytest.raises(SystemExit) as exit:
            _train(dataclasses.replace(config, distributed=elastic), world, tmp_path)
    finally:
        changer.join()
        for other in others:
            _kill(other)
        first.shutdown()
    assert exit.value.code == 128 + signal.SIGTERM
    assert _resumed(caplog.records) == [1, 2]
    assert not (tmp_path / "model.pth").exists()
    assert list(tmp_path.glob("scratch/pretrain-*/checkpoint.pt"))


def _machine(address: str) -> subprocess.Popen[bytes]:
    """Start a second machine of a cluster, which here is another group of processes."""
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "start", "--address", address, "--num-cpus", "1", "--block", "--disable-usage-stats"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _kill(machine: subprocess.Popen[bytes]) -> None:
    for process in [*psutil.Process(machine.pid).children(recursive=True), machine]:
        process.kill()
    machine.wait()


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
