"""Training set of classification: sentences about one image (SNLI-VE) or two (NLVR2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from albef.data.datasets import Sample, TrainSet
from albef.data.schema import label_of

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


class ClassificationDataset(TrainSet):
    """Sentences with their images and labels."""

    def sample(self, record: dict[str, Any], row: int, rng: np.random.Generator) -> Sample:
        """Return the sentence as ``text``, and ``label``."""
        return {"text": record["sentence"], "label": label_of(record)}

    def collate(self, encoder: Encoder, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Collate samples into a batch.

        Returns:
            Images as returned by `stack`, ``input_ids`` and ``attention_mask (B, L)``, ``label (B,)``.
        """
        return {
            **self.stack(samples),
            **self.tokenize(encoder, [s["text"] for s in samples]),
            "label": torch.tensor([s["label"] for s in samples]),
        }
