"""Official checkpoint files to ours and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from albef.config import Config, TrainConfig
from albef.models.albef import ALBEF
from albef.models.architecture import architecture_of
from albef.weights import checkpoint
from albef.weights.infer_config import differences
from albef.weights.official import CheckpointError, infer_task, load_official, read_official, to_official


def import_official(config: Config, source: Path, out: Path, task: str | None = None) -> None:
    """Convert a published checkpoint to ``out/model.pth`` and print what it lacked and what it held beyond.

    Sizes come from ``model`` in the parameters; position embeddings are interpolated to the task's image size.

    Args:
        source: File in one of the layouts of `albef.models.architecture.ARCHITECTURES`.
        task: Task whose model to write, by default that of the layout. Another one's starts from the checkpoint as
            the official fine-tuning does: `albef.weights.adapt_weights`.

    Raises:
        CheckpointError: If the file cannot be read weights-only or does not fit the sizes.
        ValueError: If there is no such task.
    """
    wanted = architecture_of(task) if task is not None else None
    state = read_official(source)
    try:
        found = infer_task(state)
        other = differences(config.model, state)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    if other:
        raise CheckpointError(f"{source}: {'; '.join(other)}")
    task = task or found
    if wanted == architecture_of(found):
        found = task  # retrieval and grounding share a layout
    train = _train(config, task)
    sizes = replace(config.model, image_size=train.image_size or config.model.image_size)
    torch.manual_seed(train.seed)  # of parts that the checkpoint has not
    vocabulary = next((len(v) for k, v in state.items() if k.endswith("word_embeddings.weight") and v.ndim), 0)
    model = ALBEF(sizes, vocabulary, found)
    report = load_official(model, state, str(source))
    fresh: list[str] = []
    if task != found:
        built = ALBEF(sizes, vocabulary, task)
        fresh = checkpoint.adopt(built, model.state_dict(), found, str(source))
        model = built
    checkpoint.save(model, out / "model.pth")
    print(f"{out / 'model.pth'}: a model for {task} from the {found} layout, {len(state)} tensors read")
    _print("missing, left as built or taken from the student", report.missing)
    _print("unexpected, left out", report.unexpected)
    _print(f"of {task} but not of {found}, left as built", [name for name in fresh if name != "queue.ids"])


def _train(config: Config, task: str) -> TrainConfig:
    """The training parameters of a task."""
    if hasattr(config.tasks, task):
        section: TrainConfig = getattr(config.tasks, task).train
        return section
    return config.pretrain if task == "pretrain" else config.text_assignment


def _print(title: str, names: Sequence[str]) -> None:
    if names:
        print(f"{title} ({len(names)}):", *names, sep="\n  ")


def export_official(model: Path, out: Path, student_only: bool = False) -> None:
    """Write the model of folder ``model`` to the file ``out`` as ``{"model": state_dict}`` in the official layout.

    Args:
        student_only: Leave out the momentum teacher and the queue, as inference needs neither.

    Raises:
        CheckpointError: If there is no model file of this library.
    """
    state, meta = checkpoint.read(model / "model.pth")
    official = to_official(state, meta.config.text.layers, meta.task, student_only)
    checkpoint.save_atomic({"model": official}, out)
    print(f"{out}: {len(official)} tensors in the {meta.task} layout")
