"""Temperature-weighted mixing of the sources of a list."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef import distributed
from albef.config import PretrainConfig, TrainConfig
from albef.data.lists import Rows

_logger = logging.getLogger(__name__)


def quotas(counts: NDArray[np.integer[Any]], temperature: float) -> NDArray[np.int64]:
    """Return the rows of each source in an epoch.

    They are proportional to ``counts ** (1 / temperature)``, to within a row, and their sum is that of ``counts``.

    Args:
        counts: Rows of each source ``(S,)``, none of them 0.
        temperature: At least 1, which leaves the counts unchanged.
    """
    weights = counts.astype(np.float64) ** (1 / temperature)
    shares = weights / weights.sum() * counts.sum()
    result: NDArray[np.int64] = shares.astype(np.int64)
    missing = int(counts.sum() - result.sum())
    result[np.argsort(result - shares, kind="stable")[:missing]] += 1
    return result


class Mixture:
    """Rows that an epoch draws from several sources.

    A source of n rows and a quota of k n + r, with r < n, gives each of its rows k times, and r of them once more.
    These r follow one another in a fixed order of the source, from epoch to epoch, so that over any number of epochs no
    row of a source is drawn more than once more often than another.

    Args:
        sources: Number of each row's source ``(N,)``, from 0 without gaps.
        temperature: As for `quotas`.
    """

    def __init__(self, sources: NDArray[np.int32], temperature: float, seed: int) -> None:
        self.counts = np.bincount(sources)
        self.quotas = quotas(self.counts, temperature)
        self._first, self._end = np.cumsum(self.counts) - self.counts, np.cumsum(self.quotas)
        self._rows = np.argsort(sources, kind="stable").astype(np.int32)
        for source, (first, count) in enumerate(zip(self._first, self.counts, strict=True)):
            # A stream of its own, apart from those of epochs and samples.
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(source,)))
            rng.shuffle(self._rows[first : first + count])

    def draw(self, epoch: int, places: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the rows in places of an epoch ``(P,)``, and how often each was drawn before.

        Args:
            places: Numbers from 0 to N - 1 ``(P,)``; each stands for a draw of the epoch, ordered by source.
        """
        source = np.searchsorted(self._end, places, side="right")
        count, quota = self.counts[source], self.quotas[source]
        place = places - (self._end[source] - quota)
        whole, rest = np.divmod(quota, count)
        rounds, offset = np.divmod(epoch * rest, count)  # of the rows that were drawn once more in earlier epochs
        repetition, index = np.divmod(place, count)
        index = np.where(repetition < whole, index, (offset + index) % count)
        draws = epoch * whole + rounds + (index < offset) + repetition
        return self._rows[self._first[source] + index], draws


def mixture_of(rows: Rows, train: TrainConfig) -> Mixture | None:
    """Return the mixture that ``mixing_temperature`` asks for; None if every row is drawn once an epoch."""
    if not isinstance(train, PretrainConfig) or train.mixing_temperature in (None, 1):
        return None
    names, numbers = rows.sources()
    main = distributed.rank() == 0
    if len(names) < 2:
        if main:
            _logger.warning("%s: all rows are of one source, so mixing_temperature has no effect", rows.name)
        return None
    mixture = Mixture(numbers, train.mixing_temperature, train.seed)
    for name, count, quota in zip(names, mixture.counts, mixture.quotas, strict=True) if main else ():
        _logger.info("%s: an epoch draws %d rows from the %d of %s", rows.name, quota, count, name or "no source")
    return mixture
