"""Streams of several sources, each of which has its share of the samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from albef.data.shards import ShardSample
from albef.data.stream import Position, Reader, StreamSpec


class MixedReader:
    """Samples of one loading process from all sources.

    The next sample is of the source that is the furthest behind its share, so that any number of successive samples
    has the shares to within a sample. A source with few shards begins again more often.

    Args:
        spec: The shards of all processes and sources.
        process, processes: Number of this loading process among those of all ranks.
        seed: Seed of the order.
        temperature: As for `albef.data.mixing.quotas`, by the pairs of each source.
        state: Where to start, see `state`; empty at the beginning.
    """

    def __init__(
        self,
        spec: StreamSpec,
        process: int,
        processes: int,
        seed: int,
        temperature: float = 1.0,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        sources = spec.by_source()
        self.shares = np.array([source.pairs for source in sources], np.float64) ** (1 / temperature)
        if state and "turn" in state:  # of checkpoints before there were several sources
            state = {"drawn": [0], "sources": [state]}
        before = state or {"drawn": [0] * len(sources), "sources": [{}] * len(sources)}
        self.drawn = np.array(before["drawn"], np.int64)
        self.firsts = [source.first for source in sources]
        self.readers = [
            Reader(
                replace(spec, shards=spec.shards[source.first : source.first + source.shards]),
                process,
                processes,
                seed,
                Position(**position),
                number,
            )
            for number, (source, position) in enumerate(zip(sources, before["sources"], strict=True))
        ]
        self.turn = 0

    def __iter__(self) -> Iterator[tuple[int, ShardSample]]:
        """Yield shard and sample.

        `state` is where to resume after it, and `turn` how often its shards were begun. It ends if no shard of a source
        can be read.
        """
        streams = [iter(reader) for reader in self.readers]
        while True:
            source = int(np.argmin((self.drawn + 1) / self.shares))
            following = next(streams[source], None)
            if following is None:
                return
            self.drawn[source] += 1
            self.turn = self.readers[source].position.turn
            yield self.firsts[source] + following[0], following[1]

    def state(self) -> dict[str, Any]:
        """Return the position as plain values."""
        return {"drawn": self.drawn.tolist(), "sources": [asdict(reader.position) for reader in self.readers]}

    def take_failures(self) -> list[str]:
        """Return the reasons why shards were given up since the last call."""
        found = [reason for reader in self.readers for reason in reader.failed]
        for reader in self.readers:
            reader.failed.clear()
        return found
