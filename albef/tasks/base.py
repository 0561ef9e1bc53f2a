"""The contract of a task.

B = rows of a batch, L = text tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from albef.config import Config, TrainConfig, train_config
from albef.models.albef import ALBEF
from albef.tasks import registry

if TYPE_CHECKING:
    from albef.data.datasets import TrainSet
    from albef.data.tokenizer import Encoder

Batch = Mapping[str, Tensor]
"""``image`` (B, 3, H, H), ``input_ids`` and ``attention_mask`` (B, L), and what the task's data set adds.

With shared images ``image`` is (I, 3, H, H) and ``image_rows`` (B, 1 or 2) says which a row looks at.
"""


@dataclass(frozen=True)
class TaskData:
    """Where a task finds its data."""

    lists: Path
    images: Path
    encoder: Encoder


class Task(nn.Module, ABC):
    """A model with its losses, its data and its metric: all that the training loop knows.

    The loop calls ``forward(batch, alpha)``, sums what its keys ending in ``_loss`` hold, and asks `validate` for
    metrics after each epoch.
    """

    name: ClassVar[str]
    lists: ClassVar[tuple[str, ...]]
    """Lists that training and validation read, without ``.json``."""
    selection: ClassVar[str | None] = None
    """Validation metric that picks the epoch whose weights are kept; without one the last epoch's are."""

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
        """The training set."""

    @abstractmethod
    def forward(self, batch: Batch, alpha: float) -> dict[str, Tensor]:
        """Losses (keys ``*_loss``) and other scalars of a training step; updates teacher and queue."""

    def begin(self) -> None:
        """Called once before the first step, with all weights in place."""

    def validates(self, data: TaskData) -> bool:
        """Whether there is a validation split: the paper's VQA, trained on it too, has none."""
        return all((data.lists / f"{name}.json").is_file() for name in self.lists if name.endswith("_val"))

    def validate(self, data: TaskData) -> dict[str, float]:
        """Metrics on the validation split; empty where the task has none."""
        return {}

    @classmethod
    def search_space(cls) -> dict[str, tuple[str, float, float]]:
        """What a hyper-parameter search varies: training parameter -> (distribution, low, high).

        Distributions are ``uniform``, ``loguniform`` and ``randint``, and ``factor``: log-uniform between multiples of
        what the parameter is now.
        """
        return {
            "optim.lr": ("factor", 0.25, 4.0),
            "optim.warmup_steps": ("factor", 0.25, 4.0),
            "alpha": ("uniform", 0.0, 0.8),
        }


def task_class(name: str) -> type[Task]:
    """Return the class that trains a task.

    Raises:
        UnknownTaskError: If no task has this name, or the task has no training.
    """
    found: type[Task] = registry.module(name, "train").TASK
    return found
