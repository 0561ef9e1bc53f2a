"""Search trial: a fine-tuning run that reports validations to Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from albef.config import Config
from albef.data.lists import Lists, Rows
from albef.data.tokenizer import Encoder
from albef.tasks.base import TaskData, task_class
from albef.tracking.tracker import Tracker
from albef.training.loop import Loop
from albef.training.run import device
from albef.tuning.space import trial_config
from albef.weights import checkpoint as model_file


@dataclass(frozen=True)
class Inputs:
    """Inputs of a fine-tuning run, with absolute paths.

    Args:
        init: Folder of the ``model.pth`` that fine-tuning starts from.
        folder: Folder of the search, with one subfolder per trial. Ray's own folders are unsuitable, because they
            belong to one session and are deleted with it.
        uri: MLflow store; ``none`` disables tracking.
        parent: `Tracker.identity` of the search's MLflow run.
        tags: Tags of the trials' MLflow runs.
    """

    lists: Path
    images: Path
    tokenizer: Path
    init: Path
    folder: Path
    uri: str
    parent: dict[str, Any]
    tags: Mapping[str, str]


class Reporter:
    """Tracker that forwards metrics to MLflow, and validation metrics to Ray."""

    def __init__(self, tracker: Tracker, selection: str) -> None:
        self.tracker, self.selection = tracker, selection
        self.steps_per_epoch = self.epochs = 1

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Log values at a step; Ray may end the trial here."""
        from ray import tune

        self.tracker.log_metrics(metrics, step)
        if (value := metrics.get(f"val_{self.selection}")) is not None:
            epoch = step // self.steps_per_epoch
            if epoch == self.epochs:
                self.tracker.end("FINISHED")
            tune.report({self.selection: value, "epoch": epoch, "step": step})


def run(proposal: Mapping[str, Any], config: Config, task_name: str, inputs: Inputs) -> None:
    """Train in a Ray worker, resuming from a checkpoint.

    Args:
        proposal: Number and setting of the trial; see `albef.tuning.study.Study.propose`.
    """
    torch.set_num_threads(max(int(config.tune.cpus_per_trial), 1))
    torch.set_float32_matmul_precision("high")
    number, setting = proposal["number"], proposal["setting"]
    folder = inputs.folder / str(number)
    config = trial_config(config, task_name, setting)
    kind = task_class(task_name)
    torch.manual_seed(kind.train_config(config).seed)
    encoder = Encoder.from_file(inputs.tokenizer / "tokenizer.json")
    task = kind(config, encoder)
    model_file.initialize(task.model, inputs.init / "model.pth")
    work_dir = folder / "scratch"
    work_dir.mkdir(parents=True, exist_ok=True)
    data = TaskData(_Shortened(inputs.lists, inputs.images, config.tune.rows), encoder)
    search_dir = inputs.folder.parent  # the folder of the search is deleted at its end
    name = f"trial_{number + 1}"
    # A child run of the search's run: killed, unless the last epoch is reported or an error is raised.
    with Tracker(inputs.uri, name, setting, inputs.tags, folder, search_dir, inputs.parent) as tracker:
        reporter = Reporter(tracker, str(kind.selection))
        loop = Loop(task, data, work_dir, folder / "out", reporter, device())
        reporter.steps_per_epoch, reporter.epochs = loop.steps_per_epoch, loop.config.epochs
        loop.run()


class _Shortened(Lists):
    """Lists whose training lists are cut off after a number of rows."""

    def __init__(self, folder: Path, images: Path, rows: int | None) -> None:
        super().__init__(folder, images)
        self.limit = rows

    def __getitem__(self, name: str) -> Rows:
        rows = super().__getitem__(name)
        return rows[: self.limit] if self.limit is not None and name.endswith("_train") else rows
