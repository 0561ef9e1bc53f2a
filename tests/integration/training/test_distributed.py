"""Training with two workers, and recovery from a killed worker."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from albef import workers
from albef.config import Config
from albef.data.loader import train_loader
from albef.data.tokenizer import Encoder
from albef.losses.distill import ramped_alpha
from albef.models.queue import FeatureQueue
from albef.tasks.base import TaskData, task_class
from albef.training import run
from albef.training.optim import build_optimizer, learning_rate
from albef.training.step import TrainingError
from albef.weights import checkpoint
from tests.errors import refuses
from tests.worlds import color_world, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("distributed") / "world")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with workers.cluster(2):
        yield


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


def _history(out: Path) -> list[dict[str, float]]:
    with (out / "history.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _in_turn(
    config: Config, world: Path, patch: pytest.MonkeyPatch
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Return the losses and the weights of pretraining, with both workers computed in one process."""
    train, encoder = config.pretrain, Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    torch.manual_seed(train.seed)
    first = task_class("pretrain")(config, encoder)
    workers = [first, copy.deepcopy(first)]
    dataset = first.dataset(TaskData(world / "lists", world, encoder))
    optimizers = [build_optimizer(task, train.optim, config.model.official_quirks) for task in workers]
    random = [torch.Generator().manual_seed(train.seed + rank).get_state() for rank in range(2)]
    queued: list[tuple[Tensor, ...]] = []
    enqueue = FeatureQueue.enqueue
    patch.setattr(FeatureQueue, "enqueue", lambda queue, *features: queued.append(features))
    per_epoch, step, rows = len(dataset) // train.batch_size, 0, []
    for epoch in range(train.epochs):
        loaders = [train_loader(dataset, encoder, train, epoch, shard=(rank, 2)) for rank in range(2)]
        for batches in zip(*loaders, strict=True):
            alpha = ramped_alpha(train.alpha, step, train.alpha_ramp_epochs * per_epoch)
            outputs = []
            for rank, (task, batch) in enumerate(zip(workers, batches, strict=True)):
                torch.set_rng_state(random[rank])
                outputs.append(task(batch, alpha))
                random[rank] = torch.get_rng_state()
                task.zero_grad()
                torch.stack([v for k, v in outputs[-1].items() if k.endswith("_loss")]).sum().backward()
            for pair in zip(*(task.parameters() for task in workers), strict=True):
                if pair[0].grad is not None:
                    mean = sum(p.grad for p in pair) / 2
                    for p in pair:
                        p.grad = mean.clone()
            for task, optimizer in zip(workers, optimizers, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, per_epoch, train.epochs, train.optim) * group["lr_scale"]
                torch.nn.utils.clip_grad_norm_([p for p in task.parameters() if p.requires_grad], train.optim.clip)
                optimizer.step()
                enqueue(task.model.queue, *(torch.cat(parts) for parts in zip(*queued, strict=True)))
            queued.clear()
            rows.append({name: sum(o[name].item() for o in outputs) / 2 for name in outputs[0]})
            step += 1
    return rows, first.model.state_dict()


def _kill_a_worker(scratch: Path, killed: list[int]) -> None:
    """Kill one of the two workers after the first checkpoints."""
    written: set[int] = set()
    deadline = time.monotonic() + 120
    while len(written) < 3 and time.monotonic() < deadline:
        written |= {path.stat().st_mtime_ns for path in scratch.glob("pretrain-*/checkpoint.pt")}
        time.sleep(0.002)
    for process in psutil.Process().children(recursive=True):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            process.kill()
            killed.append(process.pid)
            return


def test_two_workers_of_which_one_is_killed_pretrain_as_one_process_in_turn(
    world: Path, cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    killer = threading.Thread(target=_kill_a_worker, args=(tmp_path / "scratch", killed))
    killer.start()
    _train(_config(), world, tmp_path)
    killer.join()
    assert killed
    assert "pretrain: resuming at step" in caplog.text
    assert not list((tmp_path / "scratch").iterdir())

    expected, weights = _in_turn(_config(), world, monkeypatch)
    assert len(expected) == 16
    for row, pair in zip(_history(tmp_path), zip(expected[::2], expected[1::2], strict=True), strict=True):
        for name in ("itc_loss", "itm_loss", "mlm_loss"):
            assert row[name] == pytest.approx(sum(each[name] for each in pair) / 2, rel=1e-4)
    found, _ = checkpoint.read(tmp_path / "model.pth")
    for name, value in found.items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-4)


def test_sigterm_saves_what_both_workers_did(
    world: Path, cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def terminate() -> None:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("scratch/pretrain-*/checkpoint.pt")) and time.monotonic() < deadline:
            time.sleep(0.01)
        if time.monotonic() < deadline:
            os.kill(os.getpid(), signal.SIGTERM)

    config = _config(epochs=40, checkpoint_every=10)
    sender = threading.Thread(target=terminate)
    sender.start()
    with pytest.raises(SystemExit) as exit:
        _train(config, world, tmp_path)
    sender.join()
    assert exit.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "model.pth").exists()
    assert list(tmp_path.glob("scratch/pretrain-*/checkpoint.pt"))
    assert "stopped by SIGTERM" in caplog.text


def test_what_cannot_go_on_is_said_once(world: Path, cluster: None, tmp_path: Path) -> None:
    with refuses(ValueError, "batch_size", 8, 5):
        _train(_config(workers=5), world, tmp_path)
    rows = json.loads((world / "lists" / "pretrain.json").read_text())
    rows[7]["image"] = "images/lost.png"  # which one of the two finds, while the other waits for it
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "pretrain.json").write_text(json.dumps(rows))
    with refuses(TrainingError, "images/lost.png"):
        run.run(_config(), "pretrain", lists, world, world / "tokenizer", tmp_path, None, tmp_path / "scratch", "none")
    assert not (tmp_path / "model.pth").exists()
