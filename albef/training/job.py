"""Training stage of a single process, from input files to output files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from albef import distributed
from albef.config import Config
from albef.data.faults import LIST
from albef.data.lists import Lists, file_of
from albef.data.tokenizer import Encoder
from albef.tasks.base import TaskData, task_class
from albef.tracking.runs import start_run
from albef.training.loop import Loop
from albef.training.state import digest_of, fingerprint
from albef.weights import checkpoint as model_file
from albef.weights import init_weights

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Inputs and outputs of a training stage.

    Args:
        task: Name of the task.
        lists: Folder of validated lists.
        images: Folder of the prepared data, or that image paths start from.
        tokenizer: Folder of the tokenizer.
        out: Folder for the results.
        init: Folder of the stage whose ``model.pth`` this one starts from.
        work_dir: Folder for checkpoints; those of this run are deleted at its end.
        tracking_uri: MLflow tracking URI; "none" disables tracking, None takes it from the environment.
    """

    task: str
    lists: Path
    images: Path
    tokenizer: Path
    out: Path
    init: Path | None = None
    work_dir: Path = Path("scratch")
    tracking_uri: str | None = None


def train(config: Config, job: Job, device: torch.device, stop_file: Path | None = None) -> dict[str, float]:
    """Train in this process, possibly as one rank of several; see `Loop` for ``stop_file``.

    Returns:
        Final metrics, on rank 0 only; see `Loop.run`.
    """
    torch.set_float32_matmul_precision("high")
    encoder = Encoder.from_file(job.tokenizer / "tokenizer.json")
    torch.manual_seed(task_seed := task_class(job.task).train_config(config).seed)
    task = task_class(job.task)(config, encoder)
    lists = [path for name in task.lists if (path := file_of(job.lists, name)).is_file()]
    inputs = [*lists, job.images / "manifest.json"]
    inputs = [job.tokenizer / "tokenizer.json", *(path for path in inputs if path.is_file())]
    if job.init is not None:
        untouched = model_file.initialize(task.model, job.init / "model.pth")
        inputs.append(job.init / "model.pth")
        _logger.info("%s: randomly initialized, not in %s: %s", job.task, job.init, ", ".join(untouched) or "nothing")
    elif job.task == "pretrain" and config.init is not None:
        untouched = init_weights.initialize(task.model, config)
        inputs += init_weights.files(config.init)
        _logger.info("%s: randomly initialized, not in init: %s", job.task, ", ".join(untouched) or "nothing")
    data = digest_of(inputs)
    folder = job.work_dir / f"{job.task}-{fingerprint(job.task, config, data)}"
    folder.mkdir(parents=True, exist_ok=True)
    uri = job.tracking_uri if distributed.rank() == 0 else "none"
    with start_run(job.task, config, folder, uri, data, lists, seed=task_seed) as tracker:
        data_of_task = TaskData(Lists(job.lists, job.images), encoder)
        loop = Loop(task, data_of_task, folder, job.out, tracker, device, stop_file)
        metrics = loop.run()
        tracker.log_metrics({f"final_{k}": v for k, v in metrics.items()}, loop.progress.step)
        for name in ("history.csv", "metrics.json", LIST):
            if (job.out / name).is_file():
                tracker.log_artifact(job.out / name)
    return metrics
