"""Several workers with Ray Train, on one or several hosts.

Ray starts the workers, joins them in a process group and replaces lost ones. All workers need access to the same files.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from albef.cluster import cluster
from albef.config import DistributedConfig
from albef.io import write_file

_STOP, _STOPPED, _REFUSED = "stop", "stopped", "refused"
"""Files of the state folder.

The request to stop, the workers' answer, and the message of a permanent error.
"""
RESIZE_SECONDS = 60.0
"""Time between two looks whether an elastic job can grow.

Each growth repeats the steps since the last checkpoint.
"""


class WorkersError(ValueError):
    """The workers failed."""


def launch(
    settings: DistributedConfig,
    name: str,
    work_dir: Path,
    function: Callable[[torch.device, Path], object],
    resumes: bool = True,
) -> None:
    """Run a function in every worker.

    If a worker is lost, the function runs again in new workers. With ``settings.min_world_size``, their number follows
    the resources of the cluster.

    Args:
        name: Name of the work.
        work_dir: Folder for the state of this launch, on a file system of all workers; it is deleted at the end.
        function: Called with the device and with a file whose existence requests a stop.
        resumes: Whether the function answers this request by `SystemExit`, and goes on where it was when it is called
            again. If not, SIGTERM ends it at once, and it does not grow.

    Raises:
        WorkersError: If the settings contradict each other, the function raises a ValueError, or workers were lost more
            than ``max_failures`` times.
        SystemExit: With code 143 if SIGTERM stopped the workers.
    """
    from ray import train
    from ray.train.torch import TorchTrainer

    most, least = settings.world_size, settings.min_world_size
    if least is not None and least > most:
        raise WorkersError(
            f"distributed.min_world_size: {least} is more than distributed.world_size ({most}), expected at most that"
        )
    folder = work_dir / f"{name}-ray"
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
    folder.mkdir(parents=True)
    resources = {"CPU": settings.cpus_per_worker, "GPU": settings.gpus_per_worker}
    with cluster(most * settings.cpus_per_worker), _worker_logs() as logs:
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "function": function,
                "folder": folder,
                "threads": settings.cpus_per_worker,
                "logs": logs,
            },
            scaling_config=train.ScalingConfig(
                num_workers=most if least is None else (least, most),
                use_gpu=settings.gpus_per_worker > 0,
                resources_per_worker={name: count for name, count in resources.items() if count},
                elastic_resize_monitor_interval_s=RESIZE_SECONDS if resumes else math.inf,
            ),
            run_config=train.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent),
                failure_config=train.FailureConfig(max_failures=settings.max_failures),
                logging_config=train.LoggingConfig(log_level="ERROR"),
            ),
        )
        failure: Exception | None = None
        try:
            with _stop_on_sigterm(folder / _STOP) if resumes else contextlib.nullcontext():
                trainer.fit()
        except train.TrainingFailedError as error:
            failure = error
    refusal, stopped = _refusal(folder), (folder / _STOPPED).exists()
    shutil.rmtree(folder, ignore_errors=True)
    if stopped:
        raise SystemExit(128 + signal.SIGTERM)
    if refusal:
        raise WorkersError(refusal)
    if failure is not None:
        resume = " to resume from the latest checkpoint" if resumes else ""
        raise WorkersError(f"{name}: {_last_line(failure)}; run again{resume}")


def _work(arguments: dict[str, Any]) -> None:
    """Run the function in a worker."""
    from ray import train
    from ray.train.torch import get_device

    folder = arguments["folder"]
    if _refusal(folder):
        return  # end without an error, so that Ray does not restart the workers
    logger = logging.getLogger("albef")
    logger.setLevel(logging.INFO if train.get_context().get_world_rank() == 0 else logging.WARNING)
    logger.addHandler(QueueHandler(arguments["logs"]))
    torch.set_num_threads(arguments["threads"])
    try:
        arguments["function"](get_device(), folder / _STOP)
    except SystemExit:  # stopped; an exit would be a failure to Ray, which restarts workers
        write_file(folder / _STOPPED, "")
    except ValueError as error:  # invalid input or parameters, which a restart would not change
        write_file(folder / _REFUSED, str(error))
        raise


@contextlib.contextmanager
def _worker_logs() -> Iterator[Any]:
    """Forward log records of workers to this process.

    Yields:
        The queue for the workers' `QueueHandler`.
    """
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Listener(QueueListener):
        def handle(self, record: logging.LogRecord) -> None:
            if logging.getLogger(record.name).isEnabledFor(record.levelno):
                super().handle(record)

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})  # not on a machine that may be lost
    listener = Listener(queue, *logging.root.handlers)
    listener.start()
    try:
        yield queue
    finally:
        listener.stop()


@contextlib.contextmanager
def _stop_on_sigterm(file: Path) -> Iterator[None]:
    """On SIGTERM, request all workers to stop.

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


def _refusal(folder: Path) -> str:
    """Return the message of a permanent error, or an empty string."""
    path = folder / _REFUSED
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
