"""Order of samples that are read from shards while training.

A loading process reads several shards of a source at a time: it takes some samples of each, shuffles them, and uses
them before it goes on. The order follows from the seed and the position of each process in its shards. A position is a
few numbers, which travel with the batches and are saved in checkpoints; to resume, a process skips to its position in
the shards that were open. Shards are dealt out to the loading processes of all ranks, so this is exact if both numbers
are the same; otherwise the stream starts again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from albef.data import shards
from albef.data.schema import SchemaError
from albef.data.shards import ShardSample

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamSource:
    """A source of a stream.

    Args:
        pattern: As in the parameters.
        first: Its first shard.
        shards: Number of its shards, which follow one another.
        pairs: Pairs that it has.
    """

    pattern: str
    first: int
    shards: int
    pairs: int


@dataclass(frozen=True)
class StreamSpec:
    """Shards to train on, from the manifest of the prepared data.

    Args:
        shards: Paths or URLs, by source.
        rows: Pairs of an epoch.
        open_shards: Shards that a process reads at a time.
        window: Samples that it takes from each of them at a time.
        image, caption: Columns; see `albef.data.shards.read`.
        held_out: Fraction of the pairs that are kept for evaluation, by their keys.
        sources: Arguments of `StreamSource`; None for a single one, as in data of earlier versions.
    """

    shards: list[str]
    rows: int
    open_shards: int
    window: int
    image: str | None
    caption: str | None
    held_out: float
    sources: list[dict[str, Any]] | None = None

    def by_source(self) -> list[StreamSource]:
        """Return the sources."""
        if self.sources is None:
            return [StreamSource("", 0, len(self.shards), self.rows)]
        return [StreamSource(**source) for source in self.sources]


def spec_of(data: Path) -> StreamSpec | None:
    """Return the stream of a prepared data set, None if it has none.

    Raises:
        ValueError: If the manifest is malformed.
    """
    path = data / "manifest.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8")).get("stream")
        return None if values is None else StreamSpec(**values)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}, stream: malformed ({error}); write it again with `albef prepare`") from error


def key_of(shard: str, sample: ShardSample) -> str:
    """Return the key of a sample, which decides whether it is held out."""
    return sample.key or f"{shard}:{sample.number}"


@dataclass(frozen=True)
class Position:
    """Position of a loading process in its shards.

    Args:
        turn: Times that all its shards were begun.
        following: Next shard of this turn to open.
        open: Index and position of each open shard, at the start of the window.
        window: Number of the window.
        used: Samples of the window that were used.
    """

    turn: int = 0
    following: int = 0
    open: tuple[tuple[int, int], ...] = ()
    window: int = 0
    used: int = 0


class Reader:
    """Samples of one loading process, in the order of training.

    Args:
        spec: The shards of all processes.
        process, processes: Number of this loading process among those of all ranks.
        seed: Seed of the order.
        position: Where to start.
        source: Number of the source, which has an order of its own.
    """

    def __init__(
        self, spec: StreamSpec, process: int, processes: int, seed: int, position: Position, source: int = 0
    ) -> None:
        self.spec, self.process, self.processes = spec, process, processes
        self.seeds = [seed, source] if source else [seed]
        self.position = position
        self.failed: list[str] = []

    def _order(self, turn: int) -> list[int]:
        order = np.random.default_rng([*self.seeds, turn]).permutation(len(self.spec.shards))
        return [int(shard) for shard in order[self.process :: self.processes]]

    def __iter__(self) -> Iterator[tuple[int, ShardSample]]:
        """Yield shard and sample; `position` is where to resume after it.

        It ends if no shard can be read.
        """
        spec, idle = self.spec, 0
        readers = {shard: self._samples(shard, start) for shard, start in self.position.open}
        while True:
            place = self._topped_up(readers)
            window: list[tuple[int, ShardSample]] = []
            ends: list[tuple[int, int]] = []
            for shard, _ in place.open:
                taken = list(islice(readers[shard], spec.window))
                window += [(shard, sample) for sample in taken]
                if len(taken) == spec.window:
                    ends.append((shard, taken[-1].number + 1))
                else:
                    del readers[shard]
            idle = 0 if window else idle + 1
            if idle > len(spec.shards):
                return
            order = np.random.default_rng([*self.seeds, self.process, place.window]).permutation(len(window))
            for used in range(place.used, len(window)):
                self.position = replace(place, used=used + 1)
                yield window[int(order[used])]
            self.position = replace(place, open=tuple(ends), window=place.window + 1, used=0)

    def _topped_up(self, readers: dict[int, Iterator[ShardSample]]) -> Position:
        """Open shards until enough are, unless a window was begun with those that are."""
        place = self.position
        opened = list(place.open)
        turn, following = place.turn, place.following
        while place.used == 0 and len(opened) < self.spec.open_shards:
            order = self._order(turn)
            if following == len(order):
                if opened:  # those of the next turn come once these are finished, or a shard might be open twice
                    break
                turn, following = turn + 1, 0
                continue
            shard = order[following]
            readers[shard] = self._samples(shard, 0)
            opened.append((shard, 0))
            following += 1
        return replace(place, turn=turn, following=following, open=tuple(opened))

    def _samples(self, shard: int, start: int) -> Iterator[ShardSample]:
        name = self.spec.shards[shard]
        try:
            yield from shards.read(name, start, self.spec.image, self.spec.caption)
        except SchemaError as error:
            _logger.warning("%s; going on without the rest of it", error)
            self.failed.append(str(error))
