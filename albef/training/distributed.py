"""Distributed training: each worker runs `albef.training.job.train`.

Checkpoints are those of the training loop: restarted workers resume from the latest one, and so does a run that is
started again after it was killed.
"""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from albef.config import Config
from albef.tasks.base import task_class
from albef.tracking.runs import absolute_uri
from albef.training.job import Job
from albef.training.job import train as train_here
from albef.training.step import TrainingError
from albef.workers import WorkersError, launch


def run(config: Config, job: Job) -> dict[str, float]:
    """Train with ``config.distributed.world_size`` workers.

    If a worker is lost, new workers resume from the latest checkpoint.

    Raises:
        TrainingError: If training fails, or workers were lost more than ``max_failures`` times.
    """
    task_class(job.task).train_config(config).parts(config.distributed.world_size)  # check before Ray starts
    job = _with_absolute_paths(job)
    try:
        launch(config.distributed, job.task, job.work_dir, partial(_train, config, job))
    except WorkersError as error:
        raise TrainingError(str(error)) from error
    metrics: dict[str, float] = json.loads((job.out / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _train(config: Config, job: Job, device: torch.device, stop_file: Path) -> None:
    train_here(config, job, device, stop_file)


def _with_absolute_paths(job: Job) -> Job:
    """Return the job with absolute paths, as workers have another working directory."""
    paths: dict[str, Any] = {name: value.resolve() for name, value in vars(job).items() if isinstance(value, Path)}
    return dataclasses.replace(job, tracking_uri=absolute_uri(job.tracking_uri), **paths)
