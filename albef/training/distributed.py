"""Distributed training with Ray Train, on one or several hosts.

Ray starts the workers, joins them in a process group and replaces lost ones; each worker runs
`albef.training.job.train`. All workers need access to the same files. Checkpoints are those of the training loop:
restarted workers resume from the latest one, and so does a run that is started again after it was killed.
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

from albef.config import Config
from albef.io import write_file
from albef.tasks.base import task_class
from albef.tracking.runs import absolute_uri
from albef.training.job import Job
from albef.training.job import train as train_here
from albef.training.step import TrainingError

_STOP, _STOPPED = "stop", "stopped"
"""Files of the state folder: the request to stop, and the workers' answer."""
OBJECT_STORE_BYTES = 128 * 2**20
"""Small, since workers exchange little data through Ray."""


def run(config: Config, job: Job) -> dict[str, float]:
    """Train with ``config.distributed.world_size`` workers.

    If a worker is lost, new workers resume from the latest checkpoint.

    Raises:
        TrainingError: If training fails, or workers were lost more than ``max_failures`` times.
    """
    from ray import train
    from ray.train.torch import TorchTrainer

    settings = config.distributed
    task_class(job.task).train_config(config).parts(settings.world_size)  # check before Ray starts
    job = _with_absolute_paths(job)
    state = job.work_dir / f"{job.task}-ray"
    shutil.rmtree(state, ignore_errors=True)  # left by a killed run; resuming needs only the checkpoints of the loop
    state.mkdir(parents=True)
    resources = {"CPU": settings.cpus_per_worker, "GPU": settings.gpus_per_worker}
    with cluster(settings.world_size * settings.cpus_per_worker), _worker_logs() as logs:
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"config": config, "job": job, "state": state, "logs": logs},
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
            with _stop_on_sigterm(state / _STOP):
                trainer.fit()
        except train.TrainingFailedError as error:
            failure = error
    rejection, stopped = _rejection(state), (state / _STOPPED).exists()
    shutil.rmtree(state, ignore_errors=True)
    if stopped:
        raise SystemExit(128 + signal.SIGTERM)
    if rejection:
        raise TrainingError(rejection)
    if failure is not None:
        raise TrainingError(f"{job.task}: {_last_line(failure)}; run again to resume from the latest checkpoint")
    metrics: dict[str, float] = json.loads((job.out / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _train_worker(arguments: dict[str, Any]) -> None:
    """Run the training job in a worker."""
    from ray import train
    from ray.train.torch import get_device

    config, job, state = arguments["config"], arguments["job"], arguments["state"]
    if _rejection(state):
        return  # end without an error, so that Ray does not restart the workers
    logger = logging.getLogger("albef")
    logger.setLevel(logging.INFO if train.get_context().get_world_rank() == 0 else logging.WARNING)
    logger.addHandler(QueueHandler(arguments["logs"]))
    torch.set_num_threads(config.distributed.cpus_per_worker)
    try:
        train_here(config, job, get_device(), stop_file=state / _STOP)
    except SystemExit:  # stopped, with a checkpoint; an exit would be a failure to Ray, which restarts workers
        write_file(state / _STOPPED, "")
    except ValueError as error:  # invalid input or parameters, which a restart would not change
        write_file(state / "refused", str(error))
        raise


@contextlib.contextmanager
def _worker_logs() -> Iterator[Any]:
    """Forward log records of workers to this process.

    On a terminal, the steps of the training loop are always shown, in place of its progress bar.

    Yields:
        The queue for the workers' `QueueHandler`.
    """
    from ray.util.queue import Queue

    class Listener(QueueListener):
        def handle(self, record: logging.LogRecord) -> None:
            progress = sys.stderr.isatty() and record.name == "albef.training.loop"
            if progress or logging.getLogger(record.name).isEnabledFor(record.levelno):
                super().handle(record)

    queue = Queue()
    listener = Listener(queue, *logging.root.handlers)
    listener.start()
    try:
        yield queue
    finally:
        listener.stop()


@contextlib.contextmanager
def _stop_on_sigterm(file: Path) -> Iterator[None]:
    """On SIGTERM, request all workers to save a checkpoint and to end.

    A second SIGTERM ends them at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set signal handlers
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if file.exists():
            raise SystemExit(128 + signum)
        file.touch()

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _rejection(state: Path) -> str:
    """Return the message of a permanent error, or an empty string."""
    path = state / "refused"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _with_absolute_paths(job: Job) -> Job:
    """Return the job with absolute paths, as workers have another working directory."""
    paths: dict[str, Any] = {name: value.resolve() for name, value in vars(job).items() if isinstance(value, Path)}
    return dataclasses.replace(job, tracking_uri=absolute_uri(job.tracking_uri), **paths)


@contextlib.contextmanager
def cluster(cpus: int) -> Iterator[None]:
    """Connect to Ray.

    An existing connection is reused. Otherwise connect to the cluster at ``RAY_ADDRESS``, or start a local one on the
    loopback address.

    Args:
        cpus: Minimum number of CPUs of a local cluster. It may exceed the number of cores.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {
        "include_dashboard": False,
        "num_cpus": max(cpus, os.cpu_count() or 1),
        "object_store_memory": OBJECT_STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
    }
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    ray.init(address=address or "local", **quiet, **({} if address else local))
    try:
        yield
    finally:
        ray.shutdown()
