"""Evaluation stage: metrics of a model on a task's test split."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from albef.config import Config
from albef.data.lists import Lists
from albef.data.tokenizer import Encoder
from albef.models.albef import ALBEF
from albef.tasks import registry
from albef.tasks.job import Job
from albef.weights import checkpoint
from albef.workers import WorkersError, launch


class EvaluationError(ValueError):
    """The model or the tokenizer does not fit the task, or evaluation failed on a worker."""


def load(task: str, model: Path, tokenizer: Path) -> tuple[ALBEF, Encoder]:
    """Load a model and its tokenizer.

    Args:
        model: Folder with ``model.pth``.
        tokenizer: Folder with ``tokenizer.json``.

    Raises:
        EvaluationError: If the model cannot perform ``task`` or was trained with another vocabulary.
    """
    path = model / "model.pth"
    net, meta = checkpoint.load(path)
    if meta.task not in registry.models_for(task):
        expected = " or ".join(registry.models_for(task))
        raise EvaluationError(f"{path}: a model for {meta.task!r}, expected one for {expected} to run {task!r}")
    encoder = Encoder.from_file(tokenizer)
    if encoder.vocab_size != meta.vocab_size:
        raise EvaluationError(
            f"{tokenizer / 'tokenizer.json'}: {encoder.vocab_size} tokens, but {path} was trained with "
            f"{meta.vocab_size}; use the model's tokenizer"
        )
    return net, encoder


def run(
    config: Config,
    task: str,
    model: Path,
    lists: Path,
    images: Path,
    tokenizer: Path,
    out: Path,
    work_dir: Path = Path("scratch"),
) -> None:
    """Evaluate ``task`` and write the results to ``out``.

    The results are ``metrics.json``, a table for plots, and a folder ``shown`` with examples and other task-specific
    files. The workers of `config.distributed` share the work; results do not depend on their number.

    Args:
        model: Folder with ``model.pth``.
        lists: Folder of the lists.
        images: Folder of the prepared data, or that image paths start from.
        tokenizer: Folder with ``tokenizer.json``.
        work_dir: Folder for the state of several workers.

    Raises:
        UnknownTaskError: If the task has no evaluation.
        EvaluationError: If the model or the tokenizer does not fit the task; see `load`.
    """
    registry.module(task, "evaluate")
    folders = [model, lists, images, tokenizer, out]
    if config.distributed.world_size == 1:
        _run(config, task, folders, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        return
    load(task, model, tokenizer)  # fail before Ray starts
    work = partial(_run, config, task, [folder.resolve() for folder in folders])  # workers start in another folder
    try:
        launch(config.distributed, f"evaluate-{task}", work_dir.resolve(), work, resumes=False)
    except WorkersError as error:
        raise EvaluationError(str(error)) from error


def _run(
    config: Config, task: str, folders: Sequence[Path], device: torch.device, stop_file: Path | None = None
) -> None:
    """Evaluate on one rank."""
    model, lists, images, tokenizer, out = folders
    net, encoder = load(task, model, tokenizer)
    net.to(device)
    job = Job(task, config, net, encoder, Lists(lists, images), out)
    registry.module(task, "evaluate").run(job)
