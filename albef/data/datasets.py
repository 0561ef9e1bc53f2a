"""Training sets over validated lists.

A sample is a function of (seed, epoch, row). Where sources are mixed, the number of earlier draws of the row takes the
place of the epoch; see `albef.data.loader.EpochSampler`.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from albef.config import FusionTrainConfig, ModelConfig, TrainConfig
from albef.data import transforms
from albef.data.images import StoredImage
from albef.data.lists import Rows
from albef.data.schema import SchemaError, images_of

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

PRETRAIN_CROP = 0.2
"""Smallest area fraction of the random crop in pretraining and text assignment."""
FINETUNE_CROP = 0.5
"""Smallest area fraction of the random crop in fine-tuning."""
NO_CROP = 1.0
"""The whole image resized to a square, as in official grounding, where expressions refer to positions."""

Sample = dict[str, Any]
SharedImages = dict[tuple[int, int, str], NDArray[np.uint8]]
"""Augmented images by epoch, group of rows and path."""


class TrainSet(Dataset[Sample], ABC):
    """Samples and batches from the rows of a list.

    Args:
        rows: Records of the task's list, with their images.
        size: Pixels per side.
        train: Seed, augmentation and text length.
        crop_scale: Smallest area fraction of the random crop.
        official_quirks: Augment as the official code does; see `albef.data.rand_augment`.
    """

    def __init__(
        self,
        rows: Rows,
        size: int,
        train: TrainConfig,
        crop_scale: float = FINETUNE_CROP,
        official_quirks: bool = False,
    ) -> None:
        self.rows = rows
        self.size = size
        self.train = train
        self.crop_scale = crop_scale
        self.official_quirks = official_quirks
        self.groups: NDArray[np.int64] | None = None
        if isinstance(train, FusionTrainConfig) and train.share_images:
            self.groups = self._groups()
            self._by_group = np.argsort(self.groups, kind="stable")

    @classmethod
    def of(cls, rows: Rows, model: ModelConfig, train: TrainConfig, crop_scale: float = FINETUNE_CROP) -> Self:
        """Return the training set of a list for a model."""
        return cls(rows, model.image_size, train, crop_scale, model.official_quirks)

    def __len__(self) -> int:
        return len(self.rows)

    def _groups(self) -> NDArray[np.int64]:
        """Return the group of each row, identified by the group's first row.

        Rows with the same images form a group, as do consecutive rows that all have an image in common.
        """
        first_rows: dict[tuple[int | str, ...], int] = {}
        groups = np.empty(len(self), dtype=np.int64)
        common: set[int | str] = set()
        for row, images in enumerate(self.rows.image_keys()):
            if images not in first_rows:
                first_rows[images] = int(groups[row - 1]) if common.intersection(images) else row
            groups[row] = first_rows[images]
            common = common.intersection(images) or set(images)
        return groups

    def rows_of(self, group: int) -> list[int]:
        """Return the rows of a group, in order."""
        assert self.groups is not None
        first, last = np.searchsorted(self.groups, [group, group + 1], sorter=self._by_group)
        return [int(row) for row in self._by_group[first:last]]

    def describe(self, row: int) -> dict[str, Any]:
        """Return what identifies a row in the list of bad rows.

        These are its number and its images, as far as they are known.
        """
        try:
            return {"row": row, "images": list(images_of(self.rows[row]))}
        except SchemaError:
            return {"row": row, "images": []}

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
            SchemaError: If the record is malformed; the message names the row.
        """
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[Sample]:
        """Return the samples of a batch.

        With shared images, rows of a group hold the same arrays.
        """
        shared: SharedImages = {}
        return [self.load(key, shared) for key in keys]

    def load(self, key: tuple[int, int], shared: SharedImages) -> Sample:
        """Return the sample of ``(epoch, row)``; see `__getitem__`.

        Args:
            shared: Images of the batch so far, if rows share them; new ones are added.
        """
        epoch, row = key
        record = self.rows[row]
        sample, rng = self._text_sample(record, epoch, row)
        stored = self.rows.images(row, record)
        if self.groups is None:
            images = [self.pixels(image, self.description(sample), rng) for image in stored]
        else:
            group = int(self.groups[row])
            image_keys = [(epoch, group, image.path) for image in stored]
            for image_key, image in zip(image_keys, stored, strict=True):
                if image_key not in shared:
                    shared[image_key] = self._shared_pixels(epoch, group, image)
            images = [shared[image_key] for image_key in image_keys]
        return {**sample, "images": images}

    def _shared_pixels(self, epoch: int, group: int, image: StoredImage) -> NDArray[np.uint8]:
        # All texts of the group share one augmentation, so a single text that names a side forbids mirroring.
        texts = []
        for row in self.rows_of(group):
            with suppress(SchemaError):
                texts.append(self.description(self._text_sample(self.rows[row], epoch, row)[0]))
        text = " ".join(texts)
        rng = np.random.default_rng([self.train.seed, epoch, group, zlib.crc32(image.path.encode())])
        return self.pixels(image, text, rng)

    def _text_sample(self, record: dict[str, Any], epoch: int, row: int) -> tuple[Sample, np.random.Generator]:
        rng = np.random.default_rng([self.train.seed, epoch, row])
        return self.sample(record, row, rng), rng

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

    def pixels(self, image: StoredImage, text: str, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return augmented pixels ``(3, size, size)`` of an image, as bytes; ``text`` as in `description`."""
        return transforms.training_pixels(
            image.read(),
            image.name,
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
