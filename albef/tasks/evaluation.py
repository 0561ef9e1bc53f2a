"""The evaluation stage: a model on the test split of a task, with what plots and the report need."""

from __future__ import annotations

from pathlib import Path

import torch

from albef.config import Config
from albef.data.files import image_root
from albef.data.tokenizer import Encoder
from albef.tasks import registry
from albef.tasks.job import Job
from albef.weights import checkpoint


class EvaluationError(ValueError):
    """A task without an evaluation, or a model that cannot answer it."""


def run(config: Config, task: str, model: Path, lists: Path, images: Path, tokenizer: Path, out: Path) -> None:
    """Evaluate ``task``: ``metrics.json``, a table for plots, and ``shown`` with examples and what else the task has.

    Args:
        model: Folder with ``model.pth``.

    Raises:
        EvaluationError: If the task has no evaluation, or the model is one for other tasks.
    """
    evaluate = registry.module(task, "evaluate")
    path = model / "model.pth"
    net, meta = checkpoint.load(path)
    if meta.task not in registry.models_for(task):
        expected = " or ".join(registry.models_for(task))
        raise EvaluationError(f"{path}: a model for {meta.task!r}, expected one for {expected} to evaluate {task!r}")
    encoder = Encoder.from_file(tokenizer / "tokenizer.json")
    if encoder.vocab_size != meta.vocab_size:
        raise EvaluationError(
            f"{tokenizer / 'tokenizer.json'}: {encoder.vocab_size} tokens, but {path} was trained with "
            f"{meta.vocab_size}"
        )
    net.to("cuda" if torch.cuda.is_available() else "cpu")
    evaluate.run(Job(task, config, net, encoder, lists, image_root(images), out))
