"""Training sets over validated lists. A sample is a function of (seed, epoch, row) alone."""

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
from albef.data.images import open_image, to_pixels
from albef.data.schema import images_of, read_list

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
        self.members: dict[int, list[int]] = {}
        self.groups = self._groups() if isinstance(train, FusionTrainConfig) and train.share_images else None

    @classmethod
    def from_list(
        cls, path: Path, images: Path, model: ModelConfig, train: TrainConfig, crop_scale: float = FINETUNE_CROP
    ) -> Self:
        """Read the JSON list at ``path``; see `albef.data.schema.read_list` for its errors."""
        return cls(read_list(path), images, model.image_size, train, crop_scale)

    def __len__(self) -> int:
        return len(self.records)

    def _groups(self) -> NDArray[np.int64]:
        """Of each row, the first row of its group: the same pictures, or row after row with one in common."""
        first: dict[tuple[str, ...], int] = {}
        groups: list[int] = []
        common: set[str] = set()
        for row, record in enumerate(self.records):
            pictures = tuple(images_of(record))
            if pictures not in first:
                first[pictures] = groups[-1] if common.intersection(pictures) else row
            groups.append(first[pictures])
            common = common.intersection(pictures) or set(pictures)
            self.members.setdefault(groups[-1], []).append(row)
        return np.array(groups)

    @abstractmethod
    def sample(self, record: dict[str, Any], row: int, rng: np.random.Generator) -> Sample:
        """One sample but for its pictures, its text as ``text``; every draw comes from ``rng``."""

    @abstractmethod
    def collate(self, encoder: Encoder, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Tensors of a batch; called in the worker that made the samples."""

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Sample of ``(epoch, row)``: what `sample` tells and ``images``, each (3, size, size).

        Raises:
            ImageError: If an image cannot be read; the message names the file.
        """
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[Sample]:
        """Samples of a batch. With shared images, rows of a group hold the same arrays."""
        made: dict[tuple[int, int, str], NDArray[np.float32]] = {}
        samples = []
        for epoch, row in keys:
            sample, rng = self._text_sample(epoch, row)
            images = images_of(self.records[row])
            if self.groups is None:
                pictures = [self.pixels(image, sample["text"], rng) for image in images]
            else:
                wanted = [(epoch, int(self.groups[row]), image) for image in images]
                made |= {key: self._shared_pixels(*key) for key in dict.fromkeys(wanted) if key not in made}
                pictures = [made[key] for key in wanted]
            samples.append({**sample, "images": pictures})
        return samples

    def _shared_pixels(self, epoch: int, group: int, image: str) -> NDArray[np.float32]:
        # One augmentation for all texts of the group, so one text that names a side speaks for all.
        text = " ".join(self._text_sample(epoch, row)[0]["text"] for row in self.members[group])
        rng = np.random.default_rng([self.train.seed, epoch, group, zlib.crc32(image.encode())])
        return self.pixels(image, text, rng)

    def _text_sample(self, epoch: int, row: int) -> tuple[Sample, np.random.Generator]:
        rng = np.random.default_rng([self.train.seed, epoch, row])
        return self.sample(self.records[row], row, rng), rng

    def stack(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Pictures of a batch: ``image (B, 3, H, H)``; of two a sentence, ``(2B, 3, H, H)``, first ones first.

        With shared images each stands once, ``image (I, 3, H, H)``, and ``image_rows (B, 1 or 2)`` tells whose it is.
        """
        pictures = [[s["images"][place] for s in samples] for place in range(len(samples[0]["images"]))]
        flat = [picture for column in pictures for picture in column]
        if self.groups is None:
            return {"image": torch.from_numpy(np.stack(flat))}
        once = {id(picture): picture for picture in flat}
        index = {key: row for row, key in enumerate(once)}
        rows = torch.tensor([[index[id(picture)] for picture in column] for column in pictures]).T
        return {"image": torch.from_numpy(np.stack(list(once.values()))), "image_rows": rows}

    def pixels(self, image: str, text: str, rng: np.random.Generator) -> NDArray[np.float32]:
        """Augmented pixels ``(3, size, size)`` of a picture that ``text`` speaks of."""
        picture = open_image(self.image_root / image)
        picture = transforms.augment(picture, text, self.size, self.train.augment, self.crop_scale, rng)
        return to_pixels(picture, self.size)

    def words(self, encoder: Encoder, texts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` ``(B, L)``."""
        ids, mask = encoder.encode_batch(list(texts), max_tokens=self.train.max_tokens, max_words=self.train.max_words)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
