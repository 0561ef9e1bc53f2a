"""A training stage in one process: from files to files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from albef import distributed, tasks
from albef.config import Config
from albef.data.files import image_root
from albef.data.tokenizer import Encoder
from albef.tasks.base import TaskData
from albef.tracking.runs import start_run
from albef.training.loop import Loop
from albef.training.state import digest_of, fingerprint
from albef.weights import checkpoint as model_file
from albef.weights import init_weights

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A training stage: what it trains, and from which files to which.

    Args:
        lists: Folder of validated JSON lists.
        images: Folder of the prepared data; its manifest may name another one that image paths start from.
        tokenizer: Folder of the tokenizer.
        init: Folder of the stage whose ``model.pth`` this one starts from.
        work_dir: Folder for checkpoints; emptied of this run's at its end.
        tracking_uri: MLflow store; "none" logs nowhere, None leaves it to the environment.
    """

    task: str
    lists: Path
    images: Path
    tokenizer: Path
    out: Path
    init: Path | None = None
    work_dir: Path = Path("scratch")
    tracking_uri: str | None = None


def train(config: Config, job: Job, device: torch.device) -> dict[str, float]:
    """Train in this process, as one of several workers where there is a process group; see `Loop.run`."""
    torch.set_float32_matmul_precision("high")
    encoder = Encoder.from_file(job.tokenizer / "tokenizer.json")
    torch.manual_seed(task_seed := tasks.get(job.task).train_config(config).seed)
    task = tasks.get(job.task)(config, encoder)
    inputs = [job.lists / f"{name}.json" for name in task.lists] + [job.images / "manifest.json"]
    inputs = [job.tokenizer / "tokenizer.json", *(path for path in inputs if path.is_file())]
    if job.init is not None:
        fresh = model_file.initialise(task.model, job.init / "model.pth")
        inputs.append(job.init / "model.pth")
        _logger.info("%s: not in %s and left as built: %s", job.task, job.init, ", ".join(fresh) or "nothing")
    elif job.task == "pretrain" and config.init is not None:
        fresh = init_weights.initialise(task.model, config)
        inputs += init_weights.files(config.init)
        _logger.info("%s: not in the parts of init and left as built: %s", job.task, ", ".join(fresh) or "nothing")
    data = digest_of(inputs)
    folder = job.work_dir / f"{job.task}-{fingerprint(job.task, config, data)}"
    folder.mkdir(parents=True, exist_ok=True)
    uri = job.tracking_uri if distributed.rank() == 0 else "none"
    with start_run(job.task, config, folder, uri, data, seed=task_seed) as tracker:
        loop = Loop(task, TaskData(job.lists, image_root(job.images), encoder), folder, job.out, tracker, device)
        metrics = loop.run()
        tracker.log_metrics({f"final_{k}": v for k, v in metrics.items()}, loop.progress.step)
        for name in ("history.csv", "metrics.json"):
            tracker.log_artifact(job.out / name)
    return metrics
