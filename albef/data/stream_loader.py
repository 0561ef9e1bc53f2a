"""Training set of a stream of shards, and its loader; see `albef.data.stream`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from albef.config import ModelConfig, PretrainConfig, TrainConfig
from albef.data.datasets import Sample
from albef.data.faults import PartFaults
from albef.data.image_text import PairDataset, number_of
from albef.data.images import ImageError, StoredImage
from albef.data.lists import Images, Rows
from albef.data.shards import ShardError, ShardSample, place_of
from albef.data.stream import StreamSpec, key_of
from albef.data.stream_mixing import MixedReader

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

_MOST_BAD = 1000
"""Bad samples in a row after which reading is given up."""

_logger = logging.getLogger(__name__)


class StreamSet(PairDataset):
    """Pairs of a stream; ``len`` is that of an epoch.

    It has no rows of its own: samples come from `StreamLoader`.
    """

    def __init__(
        self, spec: StreamSpec, images: Images, model: ModelConfig, train: TrainConfig, crop_scale: float
    ) -> None:
        super().__init__(Rows([], images), model.image_size, train, crop_scale, model.official_quirks)
        self.spec = spec

    def __len__(self) -> int:
        return self.spec.rows

    def describe(self, row: int) -> dict[str, Any]:
        """Return nothing: the reason why a sample is bad names it."""
        return {}

    def sample_of(self, shard: int, sample: ShardSample, turn: int) -> Sample:
        """Return a training sample; all its randomness follows from seed, turn and place.

        Raises:
            ImageError: If there is no image or it cannot be read.
            ValueError: If there is no caption.
        """
        name = f"{self.spec.shards[shard]}, sample {sample.number} ({key_of(self.spec.shards[shard], sample)})"
        captions = [text for text in sample.captions if text.strip()]
        if not captions:
            raise ValueError(f"{name}: no caption")
        if sample.image is None:
            raise ImageError(f"{name}: no image")
        rng = np.random.default_rng([self.train.seed, turn, shard, sample.number])
        found = self.sample({"image": name, "caption": captions}, sample.number, rng)
        image = StoredImage(name, name, partial(bytes, sample.image))
        return {**found, "images": [self.pixels(image, self.description(found), rng)]}


class _Parts(IterableDataset[dict[str, Any]]):
    """Parts of batches of a rank; each loading process yields every n-th part."""

    def __init__(self, loader: StreamLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        loader, info = self.loader, get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        place = (loader.consumed + worker) % workers
        (rank, ranks), state = loader.shard, loader.positions.get(place)
        process, processes = rank * workers + place, ranks * workers
        reader = MixedReader(loader.dataset.spec, process, processes, loader.seed, loader.temperature, state)
        part = loader.consumed + worker
        samples = iter(reader)
        while True:
            yield self._part(reader, samples, loader.sizes[part % len(loader.sizes)], place)
            part += workers

    def _part(
        self, reader: MixedReader, stream: Iterator[tuple[int, ShardSample]], size: int, place: int
    ) -> dict[str, Any]:
        dataset = self.loader.dataset
        samples: list[Sample] = []
        faults = PartFaults(0, {})
        bad = 0
        while len(samples) < size:
            following = next(stream, None)
            if following is None or bad == _MOST_BAD:
                faults.reasons |= {number_of(reason): reason for reason in reader.take_failures()}
                faults.lost = "all shards of a source" if following is None else f"{bad} samples in a row"
                return {"faults": faults}
            shard, sample = following
            if place_of(key_of(dataset.spec.shards[shard], sample)) < dataset.spec.held_out:
                continue
            try:
                samples.append(dataset.sample_of(shard, sample, reader.turn))
                bad = 0
            except ValueError as error:
                faults.skipped += 1
                bad += 1
                faults.reasons[number_of(str(error))] = str(error)
        failed = reader.take_failures()
        faults.skipped += len(failed)
        faults.reasons |= {number_of(reason): reason for reason in failed}
        batch: dict[str, Any] = dict(dataset.collate(self.loader.encoder, samples))
        batch["position"] = (place, reader.state())
        return {**batch, "faults": faults} if faults.skipped else batch


class StreamLoader:
    """Loader of the parts of batches of a rank from a stream; the counterpart of `albef.data.loader.TrainLoader`.

    Raises:
        ShardError: If a source has fewer shards than there are loading processes.
    """

    def __init__(
        self, dataset: StreamSet, encoder: Encoder, train: TrainConfig, shard: tuple[int, int] = (0, 1)
    ) -> None:
        processes = shard[1] * max(1, train.num_workers)
        for source in dataset.spec.by_source():
            if source.shards < processes:
                raise ShardError(
                    f"{source.pattern or 'the stream'}: {source.shards} shards for {processes} loading processes of "
                    "all ranks, each of which needs one; lower num_workers or world_size, or write smaller shards"
                )
        self.temperature = (train.mixing_temperature if isinstance(train, PretrainConfig) else None) or 1.0
        self.dataset, self.encoder, self.shard, self.seed = dataset, encoder, shard, train.seed
        parts, (rank, ranks) = train.parts(shard[1]), shard
        shares = np.array_split(np.arange(train.batch_size), ranks * parts)[rank * parts : (rank + 1) * parts]
        self.sizes = [len(share) for share in shares]
        self.per_epoch = len(dataset) // train.batch_size * parts
        self.workers = train.num_workers
        self.consumed = 0
        self.positions: dict[int, dict[str, Any]] = {}
        self._batches: Iterator[dict[str, Any]] | None = None

    def state(self) -> dict[str, Any]:
        """Return the position after the parts that were used; see `use`."""
        return {"consumed": self.consumed, "positions": self.positions, "workers": self.workers, "ranks": self.shard[1]}

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Go to a position of `state`, if it has as many ranks and loading processes."""
        if state is not None and (state["workers"], state["ranks"]) == (self.workers, self.shard[1]):
            self.consumed, self.positions = state["consumed"], state["positions"]
        else:
            _logger.warning("other ranks or loading processes than before: the stream starts again")

    def use(self, part: dict[str, Any]) -> None:
        """Take the position out of a part that is trained on next."""
        if "position" in part:
            place, position = part.pop("position")
            self.positions = {**self.positions, place: position}
            self.consumed += 1

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the parts of each batch of an epoch from batch ``start`` on.

        Loading goes on in the next epoch where it was.
        """
        if self._batches is None:
            self._batches = iter(
                DataLoader(
                    _Parts(copy.copy(self)),  # not itself: a cycle would keep loading processes beyond its end
                    batch_size=None,
                    collate_fn=_as_is,  # type: ignore[arg-type]
                    num_workers=self.workers,
                    pin_memory=torch.cuda.is_available(),
                    prefetch_factor=4 if self.workers else None,
                    generator=torch.Generator().manual_seed(self.seed),
                )
            )
        for _ in range(self.per_epoch - start * len(self.sizes)):
            yield next(self._batches)


def _as_is(part: dict[str, Any]) -> dict[str, Any]:
    return part
