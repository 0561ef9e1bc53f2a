"""Training of visual question answering with an answer decoder (paper section 5).

M = predicted answer tokens, V = vocabulary.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from albef.losses.answer import answer_loss, predicted
from albef.models.albef import Encoders
from albef.tasks.base import Batch, Task, TaskData
from albef.tasks.vqa.data import QuestionDataset
from albef.tasks.vqa.evaluate import QuestionSet, evaluate, read_candidates


class Vqa(Task):
    """Generation of annotated answers, weighted by their frequency."""

    name: ClassVar[str] = "vqa"
    lists: ClassVar[tuple[str, ...]] = ("vqa_train", "vqa_val", "answer_list")
    selection: ClassVar[str | None] = "accuracy"

    def dataset(self, data: TaskData) -> QuestionDataset:
        """Return the training set of questions with weighted answers."""
        return QuestionDataset.from_list(
            data.lists / "vqa_train.json", data.images, self.config.model, self.config.tasks.vqa.train
        )

    def forward(self, batch: Batch, alpha: float) -> dict[str, Tensor]:
        """Return the loss of a step.

        The teacher is updated first, as in the official code.
        """
        logits = _answer_logits(self.model.student, batch)
        with torch.no_grad():
            self.model.update_teacher()
            teacher = _answer_logits(self.model.teacher, batch) if alpha else None
        with torch.autocast(logits.device.type, enabled=False):
            loss = answer_loss(
                logits,
                batch["answer_ids"],
                batch["answer_mask"],
                batch["answer_weight"],
                batch["input_ids"].shape[0],
                teacher,
                alpha,
            )
        return {"answer_loss": loss}

    def validate(self, data: TaskData) -> dict[str, float]:
        """Return the VQA accuracy on the validation split; empty without annotated answers."""
        split = QuestionSet.read(data.lists / "vqa_val.json", data.images)
        candidates = read_candidates(data.lists / "answer_list.json")
        return evaluate(self.model, split, candidates, data.encoder, self.config.tasks.vqa).metrics


def _answer_logits(encoders: Encoders, batch: Batch) -> Tensor:
    """Return word logits ``(M, V)`` of the predicted answer tokens.

    These follow every answer token except the last of each answer.
    """
    question = encoders.fuse(batch["image"], batch["input_ids"], batch["attention_mask"], batch.get("image_rows"))
    decoder = encoders.decoder
    states = decoder(
        batch["answer_ids"],
        batch["answer_mask"],
        decoder.keys_values(question),
        batch["attention_mask"],
        batch["answer_question"],
    )
    return decoder.word_logits(states[predicted(batch["answer_mask"])])


TASK = Vqa
