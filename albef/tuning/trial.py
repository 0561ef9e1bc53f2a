"""Search trial: a fine-tuning run that reports validations to Ray."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from albef.config import Config
from albef.data.files import image_root
from albef.data.tokenizer import Encoder
from albef.io import write_file
from albef.tasks.base import TaskData, task_class
from albef.tracking.tracker import BUFFERS, MlflowTracker, NoTracker
from albef.training.loop import Loop
from albef.training.run import device_of
from albef.tuning.search_state import CHECKPOINTS, RESULTS
from albef.tuning.space import trial_config
from albef.weights import checkpoint as model_file


@dataclass(frozen=True)
class Inputs:
    """Inputs of a fine-tuning run, with absolute paths.

    Args:
        init: Folder of the ``model.pth`` that fine-tuning starts from.
        trials_dir: Folder for checkpoints, one subfolder per trial. Ray's own folders are unsuitable, because they
            belong to one session and are deleted with it.
        uri: MLflow store; ``none`` disables tracking.
        parent: `MlflowTracker.identity` of the search's MLflow run.
        tags: Tags of the trials' MLflow runs.
    """

    lists: Path
    images: Path
    tokenizer: Path
    init: Path
    trials_dir: Path
    uri: str
    parent: dict[str, Any] | None
    tags: Mapping[str, str]


class Reporter:
    """Tracker that forwards metrics to MLflow, and validation metrics to Ray."""

    def __init__(self, tracker: MlflowTracker | NoTracker, selection: str) -> None:
        self.tracker, self.selection = tracker, selection
        self.steps_per_epoch = self.epochs = 1
        self.complete = False
        """True once the last epoch is reported; Ray may end the thread in that very report."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Log values at a step; Ray may end the trial here."""
        from ray import tune

        self.tracker.log_metrics(metrics, step)
        if (value := metrics.get(f"val_{self.selection}")) is not None:
            epoch = step // self.steps_per_epoch
            self.complete = epoch == self.epochs
            tune.report({self.selection: value, "epoch": epoch, "step": step})


def run(setting: Mapping[str, Any], config: Config, task_name: str, inputs: Inputs) -> None:
    """Train with a setting in a Ray worker, resuming from a checkpoint."""
    from ray import tune

    torch.set_num_threads(max(int(config.tune.cpus_per_trial), 1))
    torch.set_float32_matmul_precision("high")
    folder = inputs.trials_dir / tune.get_context().get_trial_id()
    config = trial_config(config, task_name, setting)
    kind = task_class(task_name)
    torch.manual_seed(kind.train_config(config).seed)
    encoder = Encoder.from_file(inputs.tokenizer / "tokenizer.json")
    task = kind(config, encoder)
    model_file.initialize(task.model, inputs.init / "model.pth")
    data = TaskData(_lists(inputs.lists, kind.lists, config.tune.rows, folder), image_root(inputs.images), encoder)
    work_dir = folder / CHECKPOINTS
    work_dir.mkdir(parents=True, exist_ok=True)
    with _reporter(setting, inputs, folder, str(kind.selection)) as reporter:
        loop = Loop(task, data, work_dir, folder / RESULTS, reporter, device_of())
        reporter.steps_per_epoch, reporter.epochs = loop.steps_per_epoch, loop.config.epochs
        loop.run()
    (folder / RESULTS / "model.pth").unlink()  # only the setting is kept


def _lists(lists: Path, names: tuple[str, ...], rows: int | None, folder: Path) -> Path:
    """Return the folder of lists, or a copy with shortened training lists."""
    if rows is None:
        return lists
    target = folder / "lists"
    target.mkdir(parents=True, exist_ok=True)
    for path in lists.glob("*.json"):
        if path.stem in names and path.stem.endswith("_train"):
            write_file(target / path.name, json.dumps(json.loads(path.read_text(encoding="utf-8"))[:rows]))
        elif not (target / path.name).exists():
            (target / path.name).symlink_to(path)
    return target


@contextlib.contextmanager
def _reporter(setting: Mapping[str, Any], inputs: Inputs, folder: Path, selection: str) -> Iterator[Reporter]:
    """Report to a child run of the search's MLflow run.

    The child run ends as finished once the last epoch is reported, as failed after an error, and as killed otherwise.
    """
    if inputs.uri == "none":
        yield Reporter(NoTracker(), selection)
        return
    from ray import tune

    params = {key: str(value) for key, value in setting.items()}
    buffers = folder.parents[1] / BUFFERS  # outside the folder of trials, which is deleted after the search
    name = Path(tune.get_context().get_trial_dir()).name
    tracker = MlflowTracker(inputs.uri, name, params, dict(inputs.tags), folder, buffers, inputs.parent)
    reporter = Reporter(tracker, selection)
    failed = False
    try:
        yield reporter
        reporter.complete = True
    except Exception:
        failed = True
        raise
    finally:
        tracker.close("FAILED" if failed else "FINISHED" if reporter.complete else "KILLED")
