"""Training stages: pretraining and fine-tuning, in one process or distributed."""

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
from albef.training.job import Job, train
from albef.training.step import TrainingError


def device() -> torch.device:
    """Return the device to train on, a GPU if available."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run(
    config: Config,
    task_name: str,
    lists: Path,
    images: Path,
    tokenizer: Path,
    out: Path,
    init: Path | None = None,
    work_dir: Path = Path("scratch"),
    tracking_uri: str | None = None,
) -> dict[str, float]:
    """Train a task and write model, metrics and history to ``out``.

    Training runs in this process, or with Ray if ``config.distributed.world_size`` is more than 1. Lost workers of Ray
    are replaced. They resume from the latest checkpoint, and so does a run that is started again after it was killed.
    See `Job` for the arguments.

    Returns:
        Final metrics.

    Raises:
        TrainingError: If training cannot continue, or workers were lost more than ``max_failures`` times.
    """
    job = Job(task_name, lists, images, tokenizer, out, init, work_dir, tracking_uri)
    if config.distributed.world_size == 1:
        return train(config, job, device())
    from albef.workers import WorkersError, launch

    task_class(task_name).train_config(config).parts(config.distributed.world_size)  # check before Ray starts
    # Workers have another working directory.
    paths: dict[str, Any] = {name: value.resolve() for name, value in vars(job).items() if isinstance(value, Path)}
    job = dataclasses.replace(job, tracking_uri=absolute_uri(tracking_uri), **paths)
    try:
        launch(config.distributed, task_name, job.work_dir, partial(train, config, job))
    except WorkersError as error:
        raise TrainingError(str(error)) from error
    metrics: dict[str, float] = json.loads((job.out / "metrics.json").read_text(encoding="utf-8"))
    return metrics
