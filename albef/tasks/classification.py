"""What visual entailment and NLVR2 share: a class of a sentence about one picture or two (paper section 5)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from albef.config import ClassificationConfig, Config, section_of
from albef.losses.classify import classification_loss
from albef.tasks.base import Batch, Task, TaskData
from albef.tasks.classification_data import StatementDataset
from albef.tasks.classification_eval import StatementSet, evaluate


class Classification(Task):
    """A classification head on the fused [CLS]; the teacher has a head of its own."""

    selection: ClassVar[str | None] = "accuracy"
    prefix: ClassVar[str]
    """Of the names of the lists."""

    @classmethod
    def section(cls, config: Config) -> ClassificationConfig:
        """This task's section of the parameters."""
        section: ClassificationConfig = section_of(config, cls.name)
        return section

    def dataset(self, data: TaskData) -> StatementDataset:
        """Sentences with pictures and labels."""
        return StatementDataset.from_list(
            data.lists / f"{self.prefix}_train.json", data.images, self.config.model, self.train_config(self.config)
        )

    def forward(self, batch: Batch, alpha: float) -> dict[str, Tensor]:
        """Loss of a step; moves the teacher first, as the official code does."""
        inputs = (batch["image"], batch["input_ids"], batch["attention_mask"], batch.get("image_rows"))
        logits = self.model.student.classify(*inputs)
        with torch.no_grad():
            self.model.update_teacher()
            teacher = self.model.teacher.classify(*inputs) if alpha else None
        with torch.autocast(logits.device.type, enabled=False):
            loss = classification_loss(logits, batch["label"], teacher, alpha)
        accuracy = (logits.detach().argmax(dim=1) == batch["label"]).float().mean()
        return {"cls_loss": loss, "accuracy": accuracy}

    def validate(self, data: TaskData) -> dict[str, float]:
        """Accuracy on the validation split."""
        split = StatementSet.read(data.lists / f"{self.prefix}_val.json", data.images)
        return evaluate(self.model, split, data.encoder, self.section(self.config)).metrics
