"""Training sets over validated lists.

A sample is a function of (seed, epoch, row).
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from albef.config import FusionTrainConfig, ModelConfig, TrainConfig
from albef.data import transforms
from albef.data.images import read_file
from albef.data.schema import images_of, read_list

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

PRETRAIN_CROP = 0.2
"""Smallest area fraction of the random crop in pretraining and text assignment."""
FINETUNE_CROP = 0.5
"""Smallest area fraction of the random crop in fine-tuning."""
NO_CROP = 1.0
"""The whole image resized to a square, as in official grounding, where expressions refer to positions."""

Sample = dict[str, Any]


class TrainSet(Dataset[Sample], ABC):
    """Samples and batches from the records of a list.

    Args:
        records: Records of the task's list.
        image_root: Folder that relative image paths start from.
        size: Pixels per side.
        train: Seed, augmentation and text length.
        crop_scale: Smallest area fraction of the random crop.
        official_quirks: Augment as the official code does; see `albef.data.rand_augment`.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        image_root: Path,
        size: int,
        train: TrainConfig,
        crop_scale: float = FINETUNE_CROP,
        official_quirks: bool = False,
    ) -> None:
        self.records = records
        self.image_root = image_root
        self.size = size
        self.train = train
        self.crop_scale = crop_scale
        self.official_quirks = official_quirks
        self.group_rows: dict[int, list[int]] = {}
        self.groups = self._groups() if isinstance(train, FusionTrainConfig) and train.share_images else None

    @classmethod
    def from_list(
        cls, path: Path, images: Path, model: ModelConfig, train: TrainConfig, crop_scale: float = FINETUNE_CROP
    ) -> Self:
        """Read the JSON list at ``path``; see `albef.data.schema.read_list` for its errors."""
        return cls(read_list(path), images, model.image_size, train, crop_scale, model.official_quirks)

    def __len__(self) -> int:
        return len(self.records)

    def _groups(self) -> NDArray[np.int64]:
        """Return the group of each row, identified by the group's first row.

        Rows with the same images form a group, as do consecutive rows that all have an image in common.
        """
        first_rows: dict[tuple[str, ...], int] = {}
        groups: list[int] = []
        common: set[str] = set()
        for row, record in enumerate(self.records):
            images = tuple(images_of(record))
            if images not in first_rows:
                first_rows[images] = groups[-1] if common.intersection(images) else row
            groups.append(first_rows[images])
            common = common.intersection(images) or set(images)
            self.group_rows.setdefault(groups[-1], []).append(row)
        return np.array(groups)

    @abstractmethod
    def sample(self, record: dict[str, Any], row: int, rng: np.random.Generator) -> Sample:
        """Return a sample without its images.

        The result holds its text as ``text``. All randomness comes from ``rng``.
        """

    def description(self, sample: Sample) -> str:
        """Return the words about the image.

        If they name a side, the image is not mirrored.
        """
        return str(sample["text"])

    @abstractmethod
    def collate(self, encoder: Encoder, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Collate samples into batch tensors; runs in the process that loaded them."""

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return the sample of ``(epoch, row)``.

        It is the result of `sample` with ``images``, each (3, size, size).

        Raises:
            ImageError: If an image cannot be read; the message names the file.
        """
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[Sample]:
        """Return the samples of a batch.

        With shared images, rows of a group hold the same arrays.
        """
        shared: dict[tuple[int, int, str], NDArray[np.uint8]] = {}
        samples = []
        for epoch, row in keys:
            sample, rng = self._text_sample(epoch, row)
            paths = images_of(self.records[row])
            if self.groups is None:
                images = [self.pixels(path, self.description(sample), rng) for path in paths]
            else:
                image_keys = [(epoch, int(self.groups[row]), path) for path in paths]
                shared |= {key: self._shared_pixels(*key) for key in dict.fromkeys(image_keys) if key not in shared}
                images = [shared[key] for key in image_keys]
            samples.append({**sample, "images": images})
        return samples

    def _shared_pixels(self, epoch: int, group: int, image: str) -> NDArray[np.uint8]:
        # All texts of the group share one augmentation, so a single text that names a side forbids mirroring.
        text = " ".join(self.description(self._text_sample(epoch, row)[0]) for row in self.group_rows[group])
        rng = np.random.default_rng([self.train.seed, epoch, group, zlib.crc32(image.encode())])
        return self.pixels(image, text, rng)

    def _text_sample(self, epoch: int, row: int) -> tuple[Sample, np.random.Generator]:
        rng = np.random.default_rng([self.train.seed, epoch, row])
        return self.sample(self.records[row], row, rng), rng

    def stack(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Stack the images of a batch.

        Returns:
            ``image (B, 3, H, H)``; for records of two images ``(2B, 3, H, H)``, all first images before all second
            ones. With shared images, ``image (I, 3, H, H)`` holds each distinct image once and
            ``image_rows (B, 1 or 2)`` the indices of each sample's images.
        """
        columns = [[s["images"][index] for s in samples] for index in range(len(samples[0]["images"]))]
        flat = [image for column in columns for image in column]
        if self.groups is None:
            return {"image": torch.from_numpy(np.stack(flat))}
        distinct = {id(image): image for image in flat}
        index_of = {key: index for index, key in enumerate(distinct)}
        rows = torch.tensor([[index_of[id(image)] for image in column] for column in columns]).T
        return {"image": torch.from_numpy(np.stack(list(distinct.values()))), "image_rows": rows}

    def pixels(self, image: str, text: str, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return augmented pixels ``(3, size, size)`` of an image, as bytes; ``text`` as in `description`."""
        path = self.image_root / image
        return transforms.training_pixels(
            read_file(path),
            str(path),
            text,
            self.size,
            self.train.augment,
            self.crop_scale,
            rng,
            self.official_quirks,
        )

    def tokenize(self, encoder: Encoder, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask``, each ``(B, L)``."""
        ids, mask = encoder.encode_batch(list(texts), max_tokens=self.train.max_tokens, max_words=self.train.max_words)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
