"""The training stages: pretraining and fine-tuning, by this process or by several workers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from albef.config import Config
from albef.training.job import Job, train


def device_of(name: Literal["auto", "cpu", "cuda"] = "auto") -> torch.device:
    """The device to train on: a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


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
    """Train a task, see `Job`, and write its model, metrics and history to ``out``; here, or by several workers.

    Raises:
        TrainingError: If training cannot go on.
    """
    job = Job(task_name, lists, images, tokenizer, out, init, work_dir, tracking_uri)
    if config.distributed.world_size == 1:
        return train(config, job, device_of())
    from albef.training import distributed

    return distributed.run(config, job)
