"""Conversion of official checkpoint files to model files and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from albef.config import Config, train_config
from albef.io import write_file
from albef.models.albef import ALBEF
from albef.models.encoders import resolve
from albef.tasks import registry
from albef.weights import checkpoint
from albef.weights.infer_config import size_mismatches, vocab_size
from albef.weights.official import CheckpointError, infer_task, load_official, read_official, to_official


def import_official(config: Config, source: Path, out: Path, task: str | None = None) -> None:
    """Convert an official checkpoint to ``out/model.pth`` and print missing and unexpected tensors.

    Model dimensions come from ``model`` in the parameters. Position embeddings are interpolated to the task's image
    size.

    Args:
        source: Checkpoint of one of the tasks of `albef.tasks.registry`.
        task: Task whose model to write, by default that of the checkpoint. The model of another task is initialized
            from the checkpoint as in the official fine-tuning; see `albef.weights.adapt_weights`.

    Raises:
        CheckpointError: If the file cannot be read weights-only or does not match the model dimensions.
        ValueError: If there is no such task.
    """
    requested = registry.spec(task).architecture if task is not None else None
    config = replace(config, model=resolve(config.model))
    state = read_official(source)
    try:
        source_task = infer_task(state)
        mismatches = size_mismatches(config.model, state)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    if mismatches:
        raise CheckpointError(f"{source}: {'; '.join(mismatches)}")
    task = task or source_task
    if requested == registry.spec(source_task).architecture:
        source_task = task  # retrieval and grounding have the same architecture
    train = train_config(config, task)
    model_config = replace(config.model, image_size=train.image_size or config.model.image_size)
    torch.manual_seed(train.seed)  # random initialization of tensors missing from the checkpoint
    vocabulary = vocab_size(state)
    model = ALBEF(model_config, vocabulary, source_task)
    report = load_official(model, state, str(source))
    untouched: list[str] = []
    if task != source_task:
        target = ALBEF(model_config, vocabulary, task)
        untouched = checkpoint.initialize_from_state(target, model.state_dict(), source_task, str(source))
        model = target
    checkpoint.save(model, out / "model.pth")
    print(f"{out / 'model.pth'}: model for {task} from a {source_task} checkpoint with {len(state)} tensors")
    _print("missing from the checkpoint, randomly initialized or copied from the student", report.missing)
    _print("unexpected in the checkpoint, ignored", report.unexpected)
    _print(
        f"in {task} but not in {source_task}, randomly initialized", [name for name in untouched if name != "queue.ids"]
    )


def _print(title: str, names: Sequence[str]) -> None:
    if names:
        print(f"{title} ({len(names)}):", *names, sep="\n  ")


def export_official(model: Path, out: Path, student_only: bool = False) -> None:
    """Write a model as official checkpoint ``{"model": state_dict}``.

    Args:
        model: Folder of ``model.pth``.
        out: File to write.
        student_only: Omit the momentum teacher and the queue, which inference does not need.

    Raises:
        CheckpointError: If the folder has no model file of this library.
    """
    state, meta = checkpoint.read(model / "model.pth")
    official = to_official(state, meta.config.text.layers, meta.task, student_only)
    write_file(out, lambda file: torch.save({"model": official}, file))
    print(f"{out}: official {meta.task} checkpoint with {len(official)} tensors")
