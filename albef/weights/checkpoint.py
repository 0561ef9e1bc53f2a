"""Model files: weights with the sizes that built them, written atomically and read weights-only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef.config import ConfigError, ModelConfig, from_dict
from albef.models.albef import ALBEF
from albef.models.architecture import architecture_of
from albef.weights import adapt_weights
from albef.weights.official import CheckpointError, read_weights

FORMAT = "albef-model-2"


@dataclass(frozen=True)
class ModelMeta:
    """What a model file says of its model."""

    task: str
    config: ModelConfig
    vocab_size: int


def save_atomic(data: Any, path: Path) -> None:
    """``torch.save`` that leaves either the old or the complete new file, whatever interrupts it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(data, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def save(model: ALBEF, path: str | Path) -> None:
    """Write ``model`` with its sizes and its task."""
    meta = {"format": FORMAT, "task": model.task, "config": asdict(model.config), "vocab_size": model.vocab_size}
    save_atomic({**meta, "model": model.state_dict()}, Path(path))


def read(path: str | Path) -> tuple[Mapping[str, Tensor], ModelMeta]:
    """Read the weights and the description of a model file.

    Raises:
        CheckpointError: If it is not a model file of this library.
    """
    data = read_weights(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a model file of this library (expected format {FORMAT!r})")
    try:
        config = from_dict(data["config"], ModelConfig, f"{path}: config")
        architecture_of(data["task"])
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return data["model"], ModelMeta(task=data["task"], config=config, vocab_size=data["vocab_size"])


def load(path: str | Path) -> tuple[ALBEF, ModelMeta]:
    """Rebuild a model from its file, in evaluation mode.

    Raises:
        CheckpointError: If the file is no model file or its tensors do not fit its sizes.
    """
    state, meta = read(path)
    model = ALBEF(meta.config, meta.vocab_size, meta.task)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model.eval(), meta


def initialise(model: ALBEF, path: str | Path) -> list[str]:
    """Start ``model`` from the file of another stage; returns the names that stay as they were.

    What the task of ``model`` has and the file's has not is taken over as far as the paper does (`surgery.adapt`);
    other heads are left as built. The queue's features are kept, but not whose they are: an earlier stage counts
    images differently.

    Raises:
        CheckpointError: If the file does not fit the model.
    """
    state, meta = read(path)
    if meta.vocab_size != model.vocab_size:
        raise CheckpointError(f"{path}: vocabulary of {meta.vocab_size}, the tokenizer has {model.vocab_size}")
    return adopt(model, state, meta.task, str(path))


def adopt(model: ALBEF, state: Mapping[str, Tensor], task: str, source: str) -> list[str]:
    """`initialise` from the weights of a model of ``task``; ``source`` is their name in error messages.

    Raises:
        CheckpointError: If the weights do not fit the model.
    """
    own = model.state_dict()
    adapted = adapt_weights.adapt(state, task, model)
    shared = {name: value for name, value in adapted.items() if name in own and name != "queue.ids"}
    for name, value in shared.items():
        if value.shape != own[name].shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(value.shape)}, the model of params.yaml {tuple(own[name].shape)}"
            )
    model.load_state_dict(shared, strict=False)
    if model.architecture.teacher and not architecture_of(task).teacher:
        model.sync_teacher()  # after loading: the official NLVR.py copies before, and its teacher starts at random
        return [name for name in own if name not in shared and not name.startswith("teacher.")]
    return [name for name in own if name not in shared]
