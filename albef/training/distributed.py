"""Training by several workers, on one machine or many, with Ray Train.

Ray starts them, joins them in a process group and replaces those that are lost; what each does is
`albef.training.job.train`. All see the same files. Checkpoints are those of the loop: workers that Ray starts anew go
on from the last one, and so does a run that starts after everything was killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from albef import tasks
from albef.config import Config
from albef.data.loader import EpochSampler
from albef.tracking.runs import absolute
from albef.training.job import Job
from albef.training.job import train as train_here
from albef.training.loop import TrainingError
from albef.training.state import write_text_atomic

OBJECT_STORE_BYTES = 128 * 2**20
"""Workers pass little through Ray."""


def run(config: Config, job: Job) -> dict[str, float]:
    """Train with ``config.distributed.world_size`` workers; if one is lost, new ones go on from the last checkpoint.

    Raises:
        TrainingError: If training cannot go on, or workers were lost more than ``max_failures`` times.
    """
    from ray import train
    from ray.train.torch import TorchTrainer

    settings = config.distributed
    batch_size = tasks.get(job.task).train_config(config).batch_size
    EpochSampler(batch_size, batch_size, seed=0, share=(0, settings.world_size))  # complains before anything starts
    job = _anywhere(job)
    state = job.work_dir / f"{job.task}-ray"
    shutil.rmtree(state, ignore_errors=True)  # of a run that was killed: what counts are the loop's checkpoints
    resources = {"CPU": settings.cpus_per_worker, "GPU": settings.gpus_per_worker}
    with cluster(settings.world_size * settings.cpus_per_worker), _lines() as lines:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"config": config, "job": job, "state": state, "lines": lines},
            scaling_config=train.ScalingConfig(
                num_workers=settings.world_size,
                use_gpu=settings.gpus_per_worker > 0,
                resources_per_worker={name: count for name, count in resources.items() if count},
            ),
            run_config=train.RunConfig(
                name=state.name,
                storage_path=str(state.parent),
                failure_config=train.FailureConfig(max_failures=settings.max_failures),
                logging_config=train.LoggingConfig(log_level="ERROR"),
            ),
        )
        failure: Exception | None = None
        try:
            with _ended_by_sigterm():
                trainer.fit()
        except train.TrainingFailedError as error:
            failure = error
    refused = _refusal(state)
    shutil.rmtree(state, ignore_errors=True)
    if refused:
        raise TrainingError(refused)
    if failure is not None:
        raise TrainingError(f"{job.task}: {_last_line(failure)}; run again to go on from the last checkpoint")
    metrics: dict[str, float] = json.loads((job.out / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _work(given: dict[str, Any]) -> None:
    """What a worker runs."""
    from ray import train
    from ray.train.torch import get_device

    config, job, state = given["config"], given["job"], given["state"]
    if _refusal(state):
        return  # and nobody tries again
    logger = logging.getLogger("albef")
    logger.setLevel(logging.INFO if train.get_context().get_world_rank() == 0 else logging.WARNING)
    logger.addHandler(QueueHandler(given["lines"]))
    torch.set_num_threads(config.distributed.cpus_per_worker)
    try:
        train_here(config, job, get_device())
    except ValueError as error:  # not the worker's fault: it would be the same again
        write_text_atomic(state / "refused", str(error))
        raise


@contextlib.contextmanager
def _lines() -> Iterator[Any]:
    """A queue that brings what workers log to this process, on a terminal with the steps that a bar would show."""
    from ray.util.queue import Queue

    class Listener(QueueListener):
        def handle(self, record: logging.LogRecord) -> None:
            told = sys.stderr.isatty() and record.name == "albef.training.loop"
            if told or logging.getLogger(record.name).isEnabledFor(record.levelno):
                super().handle(record)

    queue = Queue()
    listener = Listener(queue, *logging.root.handlers)
    listener.start()
    try:
        yield queue
    finally:
        listener.stop()


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Leave in order on SIGTERM, so that Ray and its workers end, too."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _refusal(state: Path) -> str:
    path = state / "refused"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _anywhere(job: Job) -> Job:
    """The job with paths that hold in a worker."""
    paths: dict[str, Any] = {name: value.resolve() for name, value in vars(job).items() if isinstance(value, Path)}
    return dataclasses.replace(job, tracking_uri=absolute(job.tracking_uri), **paths)


@contextlib.contextmanager
def cluster(cpus: int) -> Iterator[None]:
    """Ray: what this process is connected to, else the cluster that ``RAY_ADDRESS`` names, else an own one on loopback.

    Args:
        cpus: That an own one gives out at least: on fewer cores it is slow, that is all.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {
        "include_dashboard": False,
        "num_cpus": max(cpus, os.cpu_count() or 1),
        "object_store_memory": OBJECT_STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
    }
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    ray.init(address=address or "local", **quiet, **({} if address else own))
    try:
        yield
    finally:
        ray.shutdown()
