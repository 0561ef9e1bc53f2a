"""Training of visual question answering with an answer decoder (paper section 5).

M = predicted answer tokens, V = vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from albef.data.datasets import Sample, TrainSet
from albef.losses.answer import answer_loss, predicted
from albef.losses.distill import is_active
from albef.models.albef import Encoders
from albef.tasks.base import Batch, Task, TaskData
from albef.tasks.vqa.evaluate import QuestionSet, evaluate, read_candidates

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

VG_WEIGHT = 0.5
"""Weight of a Visual Genome answer, given by a single annotator (official ``vqa_dataset.py``)."""


def weighted_answers(record: dict[str, Any]) -> dict[str, float]:
    """Return the answers of a record with their weights.

    A weight is the fraction of annotators who gave the answer, or `VG_WEIGHT`.
    """
    answers = record["answer"]
    if record["dataset"] == "vg":
        return {answers if isinstance(answers, str) else answers[0]: VG_WEIGHT}
    answers = [answers] if isinstance(answers, str) else answers
    return {answer: count / len(answers) for answer, count in Counter(answers).items()}


class QuestionDataset(TrainSet):
    """Questions with images and answers.

    Answers are not cleaned and end with [SEP].
    """

    def sample(self, record: dict[str, Any], row: int, rng: np.random.Generator) -> Sample:
        """Return the question as ``text``, and ``answers`` (text -> weight)."""
        return {"text": record["question"], "answers": weighted_answers(record)}

    def description(self, sample: Sample) -> str:
        """Return question and answers."""
        return " ".join([sample["text"], *sample["answers"]])

    def collate(self, encoder: Encoder, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Collate B questions with A answers in total.

        Returns:
            Images as returned by `stack`, ``input_ids`` and ``attention_mask`` of the questions, ``answer_ids`` and
            ``answer_mask (A, L)``, ``answer_weight (A,)`` and ``answer_question (A,)``, the row of the question.
        """
        answers = [(a, weight, row) for row, s in enumerate(samples) for a, weight in s["answers"].items()]
        ids, mask = encoder.encode_batch([a for a, _, _ in answers], end=True)
        return {
            **self.stack(samples),
            **self.tokenize(encoder, [s["text"] for s in samples]),
            "answer_ids": torch.from_numpy(ids),
            "answer_mask": torch.from_numpy(mask),
            "answer_weight": torch.tensor([weight for _, weight, _ in answers]),
            "answer_question": torch.tensor([row for _, _, row in answers]),
        }


class Vqa(Task):
    """Generation of annotated answers, weighted by their frequency."""

    name: ClassVar[str] = "vqa"
    lists: ClassVar[tuple[str, ...]] = ("vqa_train", "vqa_val", "answer_list")
    selection: ClassVar[str | None] = "accuracy"

    def dataset(self, data: TaskData) -> QuestionDataset:
        """Return the training set of questions with weighted answers."""
        return QuestionDataset.of(data.lists["vqa_train"], self.config.model, self.config.tasks.vqa.train)

    def forward(self, batch: Batch, alpha: float | Tensor) -> dict[str, Tensor]:
        """Return the loss of a step.

        The teacher is updated first, as in the official code.
        """
        logits = _answer_logits(self.model.student, batch)
        with torch.no_grad():
            self.model.update_teacher()
            teacher = _answer_logits(self.model.teacher, batch) if is_active(alpha) else None
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
        split = QuestionSet.of(data.lists["vqa_val"])
        candidates = read_candidates(data.lists.folder / "answer_list.json")
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
