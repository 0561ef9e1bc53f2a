"""One trial of a search: a fine-tuning that tells the search of each validation."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from albef import tasks
from albef.config import Config
from albef.data.files import image_root, write_text
from albef.data.tokenizer import Encoder
from albef.tasks.base import TaskData
from albef.tracking.tracker import PENDING, MlflowTracker, NoTracker
from albef.training.loop import Loop
from albef.training.run import device_of
from albef.tuning.search_state import CHECKPOINTS, RESULTS
from albef.tuning.space import applied
from albef.weights import checkpoint as model_file


@dataclass(frozen=True)
class Inputs:
    """Where a fine-tuning finds what it needs, as absolute paths.

    Args:
        work: Where trials keep what they go on from, each in a folder of its own. Ray's folders do not do: those that a
            trial sees are of one session, and gone with it.
        uri: MLflow store, ``none`` for none.
        parent: MLflow run of the search, as `MlflowTracker.identity` has it.
        tags: Of the MLflow runs of trials.
    """

    lists: Path
    images: Path
    tokenizer: Path
    init: Path
    work: Path
    uri: str
    parent: dict[str, Any] | None
    tags: Mapping[str, str]


class Reporter:
    """Passes metrics on to MLflow, and those of a validation to the search."""

    def __init__(self, tracker: MlflowTracker | NoTracker, selection: str) -> None:
        self.tracker, self.selection = tracker, selection
        self.steps_per_epoch = self.epochs = 1
        self.whole = False
        """Whether the last epoch is told of: Ray ends the thread in that report too."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Record values at a step; a validation may end the trial here."""
        from ray import tune

        self.tracker.log_metrics(metrics, step)
        if (value := metrics.get(f"val_{self.selection}")) is not None:
            epoch = step // self.steps_per_epoch
            self.whole = epoch == self.epochs
            tune.report({self.selection: value, "epoch": epoch, "step": step})


def run(setting: Mapping[str, Any], config: Config, task_name: str, inputs: Inputs) -> None:
    """Train with a setting; goes on from its last checkpoint where it was interrupted. For a worker of Ray."""
    from ray import tune

    torch.set_num_threads(max(int(config.tune.cpus_per_trial), 1))
    torch.set_float32_matmul_precision("high")
    folder = inputs.work / tune.get_context().get_trial_id()
    config = applied(config, task_name, setting)
    kind = tasks.get(task_name)
    torch.manual_seed(kind.train_config(config).seed)
    encoder = Encoder.from_file(inputs.tokenizer / "tokenizer.json")
    task = kind(config, encoder)
    model_file.initialise(task.model, inputs.init / "model.pth")
    data = TaskData(_lists(inputs.lists, kind.lists, config.tune.rows, folder), image_root(inputs.images), encoder)
    scratch = folder / CHECKPOINTS
    scratch.mkdir(parents=True, exist_ok=True)
    with _reporter(setting, inputs, folder, str(kind.selection)) as reporter:
        loop = Loop(task, data, scratch, folder / RESULTS, reporter, device_of())
        reporter.steps_per_epoch, reporter.epochs = loop.steps_per_epoch, loop.config.epochs
        loop.run()
    (folder / RESULTS / "model.pth").unlink()  # what counts is the setting


def _lists(lists: Path, names: tuple[str, ...], rows: int | None, folder: Path) -> Path:
    """The lists, or a folder of them whose training lists have fewer rows."""
    if rows is None:
        return lists
    target = folder / "lists"
    target.mkdir(parents=True, exist_ok=True)
    for path in lists.glob("*.json"):
        if path.stem in names and path.stem.endswith("_train"):
            write_text(target / path.name, json.dumps(json.loads(path.read_text(encoding="utf-8"))[:rows]))
        elif not (target / path.name).exists():
            (target / path.name).symlink_to(path)
    return target


@contextlib.contextmanager
def _reporter(setting: Mapping[str, Any], inputs: Inputs, folder: Path, selection: str) -> Iterator[Reporter]:
    """Of an MLflow run below that of the search, finished once its last epoch is told, killed if it ended before."""
    if inputs.uri == "none":
        yield Reporter(NoTracker(), selection)
        return
    from ray import tune

    params = {key: str(value) for key, value in setting.items()}
    pending = folder.parents[1] / PENDING  # outlives the search
    name = Path(tune.get_context().get_trial_dir()).name
    tracker = MlflowTracker(inputs.uri, name, params, dict(inputs.tags), folder, pending, inputs.parent)
    reporter = Reporter(tracker, selection)
    failed = False
    try:
        yield reporter
        reporter.whole = True
    except Exception:
        failed = True
        raise
    finally:
        tracker.close("FAILED" if failed else "FINISHED" if reporter.whole else "KILLED")
