"""Map-style data sets over validated lists. A sample is a function of (seed, epoch, row) alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from albef.config import ModelConfig, TrainConfig
from albef.data import transforms
from albef.data.images import open_image, to_pixels
from albef.data.schema import read_list


class PairSample(TypedDict):
    """An image with a text."""

    image: NDArray[np.float32]  # (3, size, size)
    caption: str
    image_id: int


class PairDataset(Dataset[PairSample]):
    """Images with captions.

    Args:
        records: Mappings with ``image`` (path), ``caption`` (a text, or several to draw from) and optionally
            ``image_id`` (any hashable; re-indexed from 0).
        image_root: Folder that relative image paths start from.
        size: Pixels per side.
        train: Seed, augmentation and caption length.
    """

    def __init__(
        self, records: Sequence[dict[str, Any]], image_root: Path, size: int, train: TrainConfig, crop_scale: float
    ) -> None:
        self.records = records
        self.image_root = image_root
        self.size = size
        self.train = train
        self.crop_scale = crop_scale
        index: dict[Any, int] = {}
        self.image_ids = [index.setdefault(r.get("image_id", r["image"]), len(index)) for r in records]

    @classmethod
    def from_list(
        cls, path: Path, images: Path, model: ModelConfig, train: TrainConfig, crop_scale: float = 0.5
    ) -> PairDataset:
        """Read the JSON list at ``path``; see `albef.data.schema.read_list` for its errors."""
        return cls(read_list(path), images, model.image_size, train, crop_scale)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> PairSample:
        """Sample of ``(epoch, row)``.

        Raises:
            ImageError: If the image cannot be read; the message names the file.
        """
        epoch, row = key
        record = self.records[row]
        rng = np.random.default_rng([self.train.seed, epoch, row])
        caption = record["caption"]
        if not isinstance(caption, str):
            caption = caption[int(rng.integers(len(caption)))]
        image = open_image(self.image_root / record["image"])
        image = transforms.augment(image, caption, self.size, self.train.augment, self.crop_scale, rng)
        return {"image": to_pixels(image, self.size), "caption": caption, "image_id": self.image_ids[row]}
