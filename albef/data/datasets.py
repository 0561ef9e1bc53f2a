"""Training sets over validated lists. A sample is a function of (seed, epoch, row) alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from albef.config import ModelConfig, TrainConfig
from albef.data import transforms
from albef.data.images import open_image, to_pixels
from albef.data.schema import read_list

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

PRETRAIN_CROP = 0.2
"""Smallest area share of the random crop in pretraining and text assignment."""
FINETUNE_CROP = 0.5
"""The same in fine-tuning."""
NO_CROP = 1.0
"""Whole pictures, squeezed to a square: official grounding, whose texts speak of places."""

Sample = dict[str, Any]


class TrainSet(Dataset[Sample], ABC):
    """Records of a list as samples and batches.

    Args:
        records: Of the task's list.
        image_root: Folder that relative image paths start from.
        size: Pixels per side.
        train: Seed, augmentation and text length.
        crop_scale: Smallest area share of the random crop.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        image_root: Path,
        size: int,
        train: TrainConfig,
        crop_scale: float = FINETUNE_CROP,
    ) -> None:
        self.records = records
        self.image_root = image_root
        self.size = size
        self.train = train
        self.crop_scale = crop_scale

    @classmethod
    def from_list(
        cls, path: Path, images: Path, model: ModelConfig, train: TrainConfig, crop_scale: float = FINETUNE_CROP
    ) -> Self:
        """Read the JSON list at ``path``; see `albef.data.schema.read_list` for its errors."""
        return cls(read_list(path), images, model.image_size, train, crop_scale)

    def __len__(self) -> int:
        return len(self.records)

    @abstractmethod
    def sample(self, record: dict[str, Any], row: int, rng: np.random.Generator) -> Sample:
        """One sample; every draw comes from ``rng``."""

    @abstractmethod
    def collate(self, encoder: Encoder, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Tensors of a batch; called in the worker that made the samples."""

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Sample of ``(epoch, row)``.

        Raises:
            ImageError: If an image cannot be read; the message names the file.
        """
        epoch, row = key
        return self.sample(self.records[row], row, np.random.default_rng([self.train.seed, epoch, row]))

    def pixels(self, image: str, text: str, rng: np.random.Generator) -> NDArray[np.float32]:
        """Augmented pixels ``(3, size, size)`` of a picture that ``text`` speaks of."""
        picture = open_image(self.image_root / image)
        picture = transforms.augment(picture, text, self.size, self.train.augment, self.crop_scale, rng)
        return to_pixels(picture, self.size)

    def words(self, encoder: Encoder, texts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` ``(B, L)``."""
        ids, mask = encoder.encode_batch(list(texts), max_tokens=self.train.max_tokens, max_words=self.train.max_words)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
