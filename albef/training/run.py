"""The training stages: pretraining and fine-tuning, from files to files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import torch

from albef import tasks
from albef.config import Config
from albef.data.files import image_root
from albef.data.tokenizer import Encoder
from albef.model import checkpoint as model_file
from albef.model import pretrained
from albef.tasks.base import TaskData
from albef.training.checkpoint import fingerprint
from albef.training.loop import Loop
from albef.training.tracking import start_run

_logger = logging.getLogger(__name__)


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
    scratch: Path = Path("scratch"),
    tracking_uri: str | None = None,
) -> dict[str, float]:
    """Train a task and write its model, metrics and history to ``out``.

    Args:
        lists: Folder of validated JSON lists.
        images: Folder of the prepared data; its manifest may name another one that image paths start from.
        tokenizer: Folder of the tokenizer.
        init: Folder of the stage whose ``model.pth`` this one starts from.
        scratch: Folder for checkpoints; emptied of this run's at its end.
        tracking_uri: MLflow store; "none" logs nowhere, None leaves it to the environment.
    """
    torch.set_float32_matmul_precision("high")
    encoder = Encoder.from_file(tokenizer / "tokenizer.json")
    torch.manual_seed(task_seed := tasks.get(task_name).train_config(config).seed)
    task = tasks.get(task_name)(config, encoder)
    inputs = [lists / f"{name}.json" for name in task.lists] + [images / "manifest.json"]
    inputs = [tokenizer / "tokenizer.json", *(path for path in inputs if path.is_file())]
    if init is not None:
        fresh = model_file.initialise(task.model, init / "model.pth")
        inputs.append(init / "model.pth")
        _logger.info("%s: not in %s and left as built: %s", task_name, init, ", ".join(fresh) or "nothing")
    elif task_name == "pretrain" and config.init is not None:
        fresh = pretrained.initialise(task.model, config)
        inputs += pretrained.files(config.init)
        _logger.info("%s: not in the parts of init and left as built: %s", task_name, ", ".join(fresh) or "nothing")
    folder = scratch / f"{task_name}-{fingerprint(task_name, config, inputs)}"
    folder.mkdir(parents=True, exist_ok=True)
    with start_run(task_name, config, folder, tracking_uri, seed=task_seed) as tracker:
        loop = Loop(task, TaskData(lists, image_root(images), encoder), folder, out, tracker, device_of())
        metrics = loop.run()
        tracker.log_metrics({f"final_{k}": v for k, v in metrics.items()}, loop.progress.step)
    return metrics
