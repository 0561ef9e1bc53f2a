"""Batches: which rows, in which order, as which tensors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from albef.config import TrainConfig
from albef.data.datasets import TrainSet
from albef.data.tokenizer import Encoder


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Shuffled batches of ``(epoch, row)`` keys; the order depends on seed and epoch alone.

    Args:
        size: Rows of the data set.
        batch_size: Rows of a batch; an incomplete last batch is dropped.
        start: Batches to skip: the position a resumed run goes on from.
        groups: A number for each row; rows of the same number then follow one another.
        share: Number of a worker, and how many share each batch: it gets its part of the rows.

    Raises:
        ValueError: If the data set has less than one batch, or a batch cannot be shared evenly.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        epoch: int = 0,
        start: int = 0,
        groups: NDArray[np.int64] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        if size < batch_size:
            raise ValueError(f"batch_size: {batch_size} is more than the {size} rows of the training list")
        if batch_size % share[1]:
            raise ValueError(f"batch_size: {batch_size} cannot be shared evenly by {share[1]} workers")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.epoch, self.start, self.groups, self.share = epoch, start, groups, share

    def __len__(self) -> int:
        return self.size // self.batch_size - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.size)
        if self.groups is not None:
            place = rng.permutation(int(self.groups.max()) + 1)
            order = order[np.argsort(place[self.groups[order]], kind="stable")]
        for batch in range(self.start, self.size // self.batch_size):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            rows = np.split(rows, self.share[1])[self.share[0]]
            yield [(self.epoch, int(row)) for row in rows]


def train_loader(
    dataset: TrainSet,
    encoder: Encoder,
    train: TrainConfig,
    epoch: int,
    start: int = 0,
    share: tuple[int, int] = (0, 1),
) -> DataLoader[dict[str, Tensor]]:
    """Batches of one epoch, from batch ``start`` on, or a share of each; who reads it also stacks and tokenizes."""
    return DataLoader(
        cast(Dataset[Any], dataset),
        batch_sampler=EpochSampler(len(dataset), train.batch_size, train.seed, epoch, start, dataset.groups, share),
        collate_fn=partial(dataset.collate, encoder),
        num_workers=train.num_workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if train.num_workers else None,
        # Its own: each iterator draws a seed, and a resumed run starts one more of them than an undisturbed one.
        generator=torch.Generator().manual_seed(train.seed),
    )
