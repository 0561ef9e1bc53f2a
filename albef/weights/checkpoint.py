"""Model files: weights and model configuration, written atomically, read weights-only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef.config import ConfigError, ModelConfig, from_dict
from albef.io import write_file
from albef.models.albef import ALBEF
from albef.tasks import registry
from albef.weights import adapt_weights
from albef.weights.official import CheckpointError, read_weights

FORMAT = "albef-model-2"


@dataclass(frozen=True)
class ModelMeta:
    """Metadata of a model file."""

    task: str
    config: ModelConfig
    vocab_size: int


def save(model: ALBEF, path: str | Path) -> None:
    """Write a model with its configuration and task."""
    data = {"format": FORMAT, "task": model.task, "config": asdict(model.config), "vocab_size": model.vocab_size}
    data["model"] = model.state_dict()
    write_file(Path(path), lambda file: torch.save(data, file))


def read(path: str | Path) -> tuple[Mapping[str, Tensor], ModelMeta]:
    """Read the weights and metadata of a model file.

    Raises:
        CheckpointError: If the file cannot be read or is not a model file of this library.
    """
    return parse(read_weights(path), path)


def is_model_file(data: Any) -> bool:
    """Return whether the content of a file is that of a model file of this library."""
    return isinstance(data, dict) and data.get("format") == FORMAT


def parse(data: Any, path: str | Path) -> tuple[Mapping[str, Tensor], ModelMeta]:
    """Return the weights and metadata in the content of a model file; see `read`.

    Args:
        path: Name of the file in error messages.
    """
    if not is_model_file(data):
        raise CheckpointError(
            f"{path}: not a model file of this library (expected format {FORMAT!r}); convert official checkpoints with "
            "`albef import-checkpoint`"
        )
    try:
        config = from_dict(data["config"], ModelConfig, f"{path}: config")
        registry.spec(data["task"])
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return data["model"], ModelMeta(task=data["task"], config=config, vocab_size=data["vocab_size"])


def load(path: str | Path) -> tuple[ALBEF, ModelMeta]:
    """Load a model in evaluation mode; see `build`."""
    state, meta = read(path)
    return build(state, meta, path), meta


def build(state: Mapping[str, Tensor], meta: ModelMeta, path: str | Path, inference: bool = False) -> ALBEF:
    """Build a model in evaluation mode from the content of its file.

    Args:
        path: Name of the file in error messages.
        inference: Omit the teacher and the queue.

    Raises:
        CheckpointError: If the tensors do not match the configuration.
    """
    model = ALBEF(meta.config, meta.vocab_size, meta.task, inference)
    if inference:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(("teacher.", "queue."))}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model.eval()


def initialize(model: ALBEF, path: str | Path) -> list[str]:
    """Initialize ``model`` from the model file of another stage.

    Weights are transferred between architectures as in the paper (`adapt_weights.adapt`); the other heads keep their
    random initialization. The features of the queue are loaded without their image ids, because each stage numbers
    images differently.

    Returns:
        Names of the tensors that were not loaded.

    Raises:
        CheckpointError: If the file does not match the model.
    """
    state, meta = read(path)
    if meta.vocab_size != model.vocab_size:
        raise CheckpointError(
            f"{path}: vocabulary of {meta.vocab_size} tokens, but the tokenizer has {model.vocab_size}; use the "
            "tokenizer that this model was trained with"
        )
    return initialize_from_state(model, state, meta.task, str(path))


def initialize_from_state(model: ALBEF, state: Mapping[str, Tensor], task: str, source: str) -> list[str]:
    """Initialize ``model`` from the weights of a model of ``task``; see `initialize`.

    Args:
        source: Name of the weights in error messages.

    Raises:
        CheckpointError: If the weights do not match the model.
    """
    expected = model.state_dict()
    adapted = adapt_weights.adapt(state, task, model)
    shared = {name: value for name, value in adapted.items() if name in expected and name != "queue.ids"}
    for name, value in shared.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(value.shape)}, expected {tuple(expected[name].shape)} by the model "
                "section of the parameters"
            )
    model.load_state_dict(shared, strict=False)
    if model.architecture.teacher and not registry.spec(task).architecture.teacher:
        # The official NLVR.py copies before loading, so that its teacher starts with random weights.
        model.sync_teacher()
        return [name for name in expected if name not in shared and not name.startswith("teacher.")]
    return [name for name in expected if name not in shared]
