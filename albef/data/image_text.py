"""Training set of image-text pairs: pretraining, text assignment, retrieval and grounding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from albef.config import PretrainConfig
from albef.data.datasets import Sample, TrainSet

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


class PairDataset(TrainSet):
    """Images with captions.

    The caption is ``caption`` (a string, or several to draw from) or, in grounding, ``text``.
    Records without ``image_id`` are identified by image path.

    Where pretraining takes captions by turns, k epochs see k different ones, in an order of each row's own.
    """

    def _text_sample(self, record: dict[str, Any], epoch: int, row: int) -> tuple[Sample, np.random.Generator]:
        if isinstance(self.train, PretrainConfig) and self.train.captions == "cycle":
            captions = record["caption"]
            if not isinstance(captions, str):
                order = np.random.SeedSequence(self.train.seed, spawn_key=(row,))
                turn = np.random.default_rng(order).permutation(len(captions))[epoch % len(captions)]
                record = record | {"caption": captions[turn]}
        return super()._text_sample(record, epoch, row)

    def sample(self, record: dict[str, Any], row: int, rng: np.random.Generator) -> Sample:
        """Return a caption as ``text``, and ``image_id``."""
        caption = record["caption"] if "caption" in record else record["text"]
        if not isinstance(caption, str):
            caption = caption[int(rng.integers(len(caption)))]
        return {"text": caption, "image_id": number_of(record.get("image_id", record["image"]))}

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


def number_of(identifier: int | str) -> int:
    """Return a number of 63 bits that stands for an identifier.

    Losses only compare identifiers. Hashes need no table of all of them; among 14 million, two are the same with a
    probability of 1e-5.
    """
    digest = hashlib.blake2b(json.dumps(identifier).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
