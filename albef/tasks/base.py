"""Base class of trainable tasks.

B = rows of a batch, L = text tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from albef.config import Config, TrainConfig, train_config
from albef.models.albef import ALBEF
from albef.tasks import registry

if TYPE_CHECKING:
    from albef.data.datasets import TrainSet
    from albef.data.lists import Lists
    from albef.data.tokenizer import Encoder

Batch = Mapping[str, Tensor]
"""``image`` (B, 3, H, H), ``input_ids`` and ``attention_mask`` (B, L), and the tensors added by the task's data set.

With shared images, ``image`` is (I, 3, H, H) and ``image_rows`` (B, 1 or 2) holds the indices of each row's images.
"""


@dataclass(frozen=True)
class TaskData:
    """Lists and images of a task, and its tokenizer."""

    lists: Lists
    encoder: Encoder


class Task(nn.Module, ABC):
    """Model with its losses, training data and validation metric.

    The loop calls ``forward(batch, alpha)``, sums the values whose keys end in ``_loss``, and calls `validate` after
    each epoch.
    """

    name: ClassVar[str]
    lists: ClassVar[tuple[str, ...]]
    """Names of the lists used for training and validation."""
    selection: ClassVar[str | None] = None
    """Validation metric that selects the epoch to keep; None keeps the last epoch."""
    fixed_shapes: ClassVar[bool] = False
    """All shapes of a step follow from those of its batch, and nothing in it waits for the device."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        size = self.train_config(config).image_size
        if size is not None:
            config = replace(config, model=replace(config.model, image_size=size))
        self.config = config
        self.model = ALBEF(config.model, encoder.vocab_size, self.name)

    @classmethod
    def train_config(cls, config: Config) -> TrainConfig:
        """Return this task's training parameters."""
        return train_config(config, cls.name)

    @abstractmethod
    def dataset(self, data: TaskData) -> TrainSet:
        """Return the training set."""

    @abstractmethod
    def forward(self, batch: Batch, alpha: float | Tensor) -> dict[str, Tensor]:
        """Return the losses of a training step; update teacher and queue.

        Keys of losses end in ``_loss``; other scalars are only logged. ``alpha`` is on the device if `fixed_shapes`
        lets a CUDA graph replay the step.
        """

    def begin(self) -> None:
        """Prepare for training; called once before the first step.

        Weights are loaded at this point.
        """

    def validates(self, data: TaskData) -> bool:
        """Return whether there is a validation split.

        VQA as in the paper has none, because it is trained on the validation split too.
        """
        return all(name in data.lists for name in self.lists if name.endswith("_val"))

    def validate(self, data: TaskData) -> dict[str, float]:
        """Return metrics on the validation split; empty if the task has none."""
        return {}

    @classmethod
    def search_space(cls) -> dict[str, tuple[str, float, float]]:
        """Return the hyperparameter search space: training parameter -> (distribution, low, high).

        Distributions are ``uniform``, ``loguniform``, ``randint`` and ``factor``, which is log-uniform between
        multiples of the parameter's current value.
        """
        return {
            "optim.lr": ("factor", 0.25, 4.0),
            "optim.warmup_steps": ("factor", 0.25, 4.0),
            "alpha": ("uniform", 0.0, 0.8),
        }


def task_class(name: str) -> type[Task]:
    """Return the `Task` subclass of a task.

    Raises:
        UnknownTaskError: If no task has this name or the task has no training.
    """
    task: type[Task] = registry.module(name, "train").TASK
    return task
