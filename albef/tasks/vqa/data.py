"""Training set of VQA: questions about images with weighted answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from albef.data.datasets import Sample, TrainSet

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
