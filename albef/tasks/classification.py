"""Training of visual entailment and NLVR2 (paper section 5).

Both classify sentences about one or two images.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from albef.config import ClassificationConfig, Config, section_of
from albef.losses.classify import classification_loss
from albef.losses.distill import is_active
from albef.tasks.base import Batch, Task, TaskData
from albef.tasks.classification_data import ClassificationDataset
from albef.tasks.classification_eval import ClassificationSet, evaluate


class Classification(Task):
    """Task with a classification head on the fused [CLS] state.

    The teacher has its own head.
    """

    selection: ClassVar[str | None] = "accuracy"
    prefix: ClassVar[str]
    """Prefix of the names of the lists."""

    @classmethod
    def section(cls, config: Config) -> ClassificationConfig:
        """Return this task's section of the parameters."""
        section: ClassificationConfig = section_of(config, cls.name)
        return section

    def dataset(self, data: TaskData) -> ClassificationDataset:
        """Return the training set of sentences with images and labels."""
        return ClassificationDataset.of(
            data.lists[f"{self.prefix}_train"], self.config.model, self.train_config(self.config)
        )

    def forward(self, batch: Batch, alpha: float | Tensor) -> dict[str, Tensor]:
        """Return loss and accuracy of a step.

        The teacher is updated first, as in the official code.
        """
        inputs = (batch["image"], batch["input_ids"], batch["attention_mask"], batch.get("image_rows"))
        logits = self.model.student.classify(*inputs)
        with torch.no_grad():
            self.model.update_teacher()
            teacher = self.model.teacher.classify(*inputs) if is_active(alpha) else None
        with torch.autocast(logits.device.type, enabled=False):
            loss = classification_loss(logits, batch["label"], teacher, alpha)
        accuracy = (logits.detach().argmax(dim=1) == batch["label"]).float().mean()
        return {"cls_loss": loss, "accuracy": accuracy}

    def validate(self, data: TaskData) -> dict[str, float]:
        """Return the accuracy on the validation split."""
        split = ClassificationSet.of(data.lists[f"{self.prefix}_val"])
        return evaluate(self.model, split, data.encoder, self.section(self.config)).metrics
