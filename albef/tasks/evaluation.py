"""The evaluation stage: a model on the test split of a task, with what plots and the report need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from albef.config import Config
from albef.data.files import image_root
from albef.data.tokenizer import Encoder
from albef.models.architecture import models_for
from albef.tasks import classification_eval
from albef.tasks.grounding import word_maps
from albef.tasks.job import Job
from albef.tasks.retrieval import evaluate as retrieval
from albef.tasks.vqa import evaluate as vqa
from albef.weights import checkpoint

_RUNS: dict[str, Callable[[Job], None]] = {
    "retrieval": retrieval.run,
    "vqa": vqa.run,
    "entailment": classification_eval.run,
    "nlvr2": classification_eval.run,
    "grounding": word_maps.run,
}


class EvaluationError(ValueError):
    """A task without an evaluation, or a model that cannot answer it."""


def run(config: Config, task: str, model: Path, lists: Path, images: Path, tokenizer: Path, out: Path) -> None:
    """Evaluate ``task``: ``metrics.json``, a table for plots, and ``shown`` with examples and what else the task has.

    Args:
        model: Folder with ``model.pth``.

    Raises:
        EvaluationError: If the task has no evaluation, or the model is one for other tasks.
    """
    if task not in _RUNS:
        raise EvaluationError(f"no evaluation for task {task!r}; known are {', '.join(_RUNS)}")
    path = model / "model.pth"
    net, meta = checkpoint.load(path)
    if meta.task not in models_for(task):
        raise EvaluationError(
            f"{path}: a model for {meta.task!r}, expected one for {' or '.join(models_for(task))} to evaluate {task!r}"
        )
    encoder = Encoder.from_file(tokenizer / "tokenizer.json")
    if encoder.vocab_size != meta.vocab_size:
        raise EvaluationError(
            f"{tokenizer / 'tokenizer.json'}: {encoder.vocab_size} tokens, but {path} was trained with "
            f"{meta.vocab_size}"
        )
    net.to("cuda" if torch.cuda.is_available() else "cpu")
    _RUNS[task](Job(task, config, net, encoder, lists, image_root(images), out))
