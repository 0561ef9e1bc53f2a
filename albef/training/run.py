"""Training stages: pretraining and fine-tuning, in one process or distributed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from albef.config import Config
from albef.training.job import Job, train


def device_of(name: Literal["auto", "cpu", "cuda"] = "auto") -> torch.device:
    """Return the device to train on; "auto" selects a GPU if available."""
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
    """Train a task and write model, metrics and history to ``out``.

    Training runs in this process, or distributed if ``config.distributed.world_size`` is more than 1. See `Job` for the
    arguments.

    Returns:
        Final metrics.

    Raises:
        TrainingError: If training cannot continue.
    """
    job = Job(task_name, lists, images, tokenizer, out, init, work_dir, tracking_uri)
    if config.distributed.world_size == 1:
        return train(config, job, device_of())
    from albef.training import distributed

    return distributed.run(config, job)
