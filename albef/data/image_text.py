"""Training set of image-text pairs: pretraining, text assignment, retrieval and grounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from albef.data.datasets import Sample, TrainSet

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


class PairDataset(TrainSet):
    """Images with captions.

    The caption is ``caption`` (a string, or several to draw from) or, in grounding, ``text``.
    ``image_id`` may be any hashable value and is re-indexed from 0; records without one are identified by image path.
    """

    def __init__(self, records: Sequence[dict[str, Any]], *args: Any, **kwargs: Any) -> None:
        super().__init__(records, *args, **kwargs)
        index: dict[Any, int] = {}
        self.image_ids = [index.setdefault(r.get("image_id", r["image"]), len(index)) for r in records]

    def sample(self, record: dict[str, Any], row: int, rng: np.random.Generator) -> Sample:
        """Return a caption as ``text``, and ``image_id``."""
        caption = record["caption"] if "caption" in record else record["text"]
        if not isinstance(caption, str):
            caption = caption[int(rng.integers(len(caption)))]
        return {"text": caption, "image_id": self.image_ids[row]}

    def collate(self, encoder: Encoder, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Collate samples into a batch.

        Returns:
            ``image (B, 3, H, H)``, ``input_ids`` and ``attention_mask (B, L)``, ``image_id (B,)``.
        """
        return {
            **self.stack(samples),
            **self.tokenize(encoder, [s["text"] for s in samples]),
            "image_id": torch.tensor([s["image_id"] for s in samples]),
        }
