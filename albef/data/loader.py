"""Batches of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from albef.config import TrainConfig
from albef.data.datasets import TrainSet
from albef.data.faults import LEAST_ROWS, ReplacingSet
from albef.data.mixing import Mixture, mixture_of
from albef.data.tokenizer import Encoder


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Shuffled batches of ``(epoch, row)`` keys.

    The order depends only on seed and epoch. An epoch has every row once; with a mixture, it has as many rows in other
    shares, and the first part of a key is the number of earlier draws of the row.

    Args:
        size: Rows of the data set.
        batch_size: Rows of a batch over all ranks; an incomplete last batch is dropped.
        start: Batches to skip, the position of a resumed run.
        groups: Group of each row; rows of a group follow one another.
        shard: Rank and world size; each rank gets a contiguous part of every batch.
        parts: Parts of a rank's batch, which follow one another. Sizes of parts differ by one row at most.
        mixture: Draws of several sources.

    Raises:
        ValueError: If the data set is smaller than one batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        epoch: int = 0,
        start: int = 0,
        groups: NDArray[np.int64] | None = None,
        shard: tuple[int, int] = (0, 1),
        parts: int = 1,
        mixture: Mixture | None = None,
    ) -> None:
        if size < batch_size:
            raise ValueError(f"batch_size: {batch_size} is more than the {size} rows of the training list")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.epoch, self.start, self.groups, self.shard = epoch, start, groups, shard
        self.parts, self.mixture = parts, mixture

    def __len__(self) -> int:
        return (self.size // self.batch_size - self.start) * self.parts

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        # The order of 32-bit numbers is that of 64-bit ones, in half the memory.
        order = rng.permutation(np.arange(self.size, dtype=np.int32))
        if self.groups is not None:
            group_order = rng.permutation(int(self.groups.max()) + 1)
            rows = order if self.mixture is None else self.mixture.draw(self.epoch, order)[0]
            order = order[np.argsort(group_order[self.groups[rows]], kind="stable")]
        for batch in range(self.start, self.size // self.batch_size):
            places = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            rank, ranks = self.shard
            for part in np.array_split(places, ranks * self.parts)[rank * self.parts : (rank + 1) * self.parts]:
                yield self._keys(part)

    def _keys(self, places: NDArray[np.integer[Any]]) -> list[tuple[int, int]]:
        if self.mixture is None:
            return [(self.epoch, int(row)) for row in places]
        rows, draws = self.mixture.draw(self.epoch, places)
        return list(zip(draws.tolist(), rows.tolist(), strict=True))


class TrainLoader:
    """Loader of the batches of a rank, epoch by epoch.

    Loading processes also stack and tokenize. They live as long as the loader.

    Args:
        shard: As for `EpochSampler`.
    """

    def __init__(
        self, dataset: TrainSet, encoder: Encoder, train: TrainConfig, shard: tuple[int, int] = (0, 1)
    ) -> None:
        self.sampler = EpochSampler(
            len(dataset),
            train.batch_size,
            train.seed,
            groups=dataset.groups,
            shard=shard,
            parts=train.parts(shard[1]),
            mixture=mixture_of(dataset.rows, train),
        )
        replacing: Any = ReplacingSet(dataset, encoder, whole_batch=min(train.batch_size, LEAST_ROWS))
        self.loader: DataLoader[Any] = DataLoader(
            replacing,
            batch_sampler=self.sampler,
            collate_fn=replacing.collate,
            num_workers=train.num_workers,
            persistent_workers=train.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if train.num_workers else None,
            # A generator separate from the global one: each iterator draws a seed from it, and a resumed run starts
            # one iterator more than an uninterrupted run.
            generator=torch.Generator().manual_seed(train.seed),
        )

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the parts of each batch of an epoch (`TrainConfig.parts`), from batch ``start`` on.

        A part in which rows were replaced also holds ``faults``, a `albef.data.faults.PartFaults`; it holds nothing
        else if that was not possible.
        """
        self.sampler.epoch, self.sampler.start = epoch, start
        yield from self.loader

    def use(self, part: dict[str, Any]) -> None:
        """Note that a part is trained on next; its place follows from the step."""

    def state(self) -> None:
        """Return the state to save, which is none: batches follow from the step."""

    def load_state(self, state: None) -> None:
        """Restore `state`."""
