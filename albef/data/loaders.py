"""Batches: which rows, in which order, as which tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from albef.config import TrainConfig
from albef.data.datasets import PairDataset, PairSample
from albef.data.tokenizer import Encoder


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Shuffled batches of ``(epoch, row)`` keys; the order depends on seed and epoch alone.

    Args:
        size: Rows of the data set.
        batch_size: Rows of a batch; an incomplete last batch is dropped.
        start: Batches to skip: the position a resumed run goes on from.

    Raises:
        ValueError: If the data set has less than one batch.
    """

    def __init__(self, size: int, batch_size: int, seed: int, epoch: int = 0, start: int = 0) -> None:
        if size < batch_size:
            raise ValueError(f"batch_size: {batch_size} is more than the {size} rows of the training list")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.size // self.batch_size - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        for batch in range(self.start, self.size // self.batch_size):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(self.epoch, int(row)) for row in rows]


class PairCollate:
    """Stacks samples and tokenizes their captions, in the worker that made them."""

    def __init__(self, encoder: Encoder, train: TrainConfig) -> None:
        self.encoder, self.train = encoder, train

    def __call__(self, samples: Sequence[PairSample]) -> dict[str, Tensor]:
        """Tensors ``image``, ``input_ids``, ``attention_mask`` and ``image_id`` of a batch."""
        ids, mask = self.encoder.encode_batch(
            [s["caption"] for s in samples], max_tokens=self.train.max_tokens, max_words=self.train.max_words
        )
        return {
            "image": torch.from_numpy(np.stack([s["image"] for s in samples])),
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "image_id": torch.tensor([s["image_id"] for s in samples]),
        }


def train_loader(
    dataset: PairDataset, encoder: Encoder, train: TrainConfig, epoch: int, start: int = 0
) -> DataLoader[dict[str, Tensor]]:
    """Batches of one epoch, from batch ``start`` on."""
    return DataLoader(
        cast(Dataset[Any], dataset),
        batch_sampler=EpochSampler(len(dataset), train.batch_size, train.seed, epoch, start),
        collate_fn=PairCollate(encoder, train),
        num_workers=train.workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if train.workers else None,
        # Its own: each iterator draws a seed, and a resumed run starts one more of them than an undisturbed one.
        generator=torch.Generator().manual_seed(train.seed),
    )
