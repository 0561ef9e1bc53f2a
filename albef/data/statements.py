"""Training set of classification: a sentence about one picture (SNLI-VE) or two (NLVR2), and its class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from albef.data.datasets import Sample, TrainSet
from albef.data.schema import images_of, label_of

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


class StatementDataset(TrainSet):
    """Sentences with their pictures and labels."""

    def sample(self, record: dict[str, Any], row: int, rng: np.random.Generator) -> Sample:
        """``images``, each (3, size, size), ``sentence`` and ``label``."""
        sentence = record["sentence"]
        return {
            "images": [self.pixels(image, sentence, rng) for image in images_of(record)],
            "sentence": sentence,
            "label": label_of(record),
        }

    def collate(self, encoder: Encoder, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """``image``, ``input_ids``, ``attention_mask``, ``label (B,)``.

        Two pictures a sentence make ``image (2B, 3, H, H)``, all first ones before all second ones.
        """
        places = range(len(samples[0]["images"]))
        return {
            "image": torch.from_numpy(np.stack([s["images"][place] for place in places for s in samples])),
            **self.words(encoder, [s["sentence"] for s in samples]),
            "label": torch.tensor([s["label"] for s in samples]),
        }
