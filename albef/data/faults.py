"""Bad rows of training: replaced by good ones, counted and listed.

A row is bad if its record is malformed or an image of it cannot be read.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from albef import distributed
from albef.data.datasets import Sample, SharedImages, TrainSet
from albef.data.images import ImageError
from albef.data.schema import SchemaError
from albef.io import write_file

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

_logger = logging.getLogger(__name__)

LIST = "skipped_rows.jsonl"
"""File of bad rows, next to the results."""
LEAST_ROWS = 8
"""Bad rows that may be chance, whatever their share."""
_NEAREST = 8
"""Rows after a bad one that are tried before those further on."""


class BadRowsError(ValueError):
    """Too many rows of a training list are bad."""


@dataclass
class PartFaults:
    """Faults of a part of a batch.

    They travel with the part, so that only faults of what was trained on count.

    Args:
        skipped: Rows that were replaced.
        reasons: Why rows are bad, by row; includes rows that were tried as replacements.
        lost: Rows without which the batch cannot be trained on, in words.
    """

    skipped: int
    reasons: dict[int, str]
    lost: str = ""


class ReplacingSet(Dataset[Any]):
    """Parts of batches in which bad rows are replaced by the next good ones.

    What replaces a row depends on the row only. Where rows share images, the replacement is a row of another group,
    since the others of its own need the same images.

    Args:
        whole_batch: Rows of a part whose loading is given up if all are bad.
    """

    def __init__(self, dataset: TrainSet, encoder: Encoder, whole_batch: int = LEAST_ROWS) -> None:
        self.dataset, self.encoder, self.whole_batch = dataset, encoder, whole_batch

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> tuple[list[Sample], PartFaults]:
        """Return the samples of a part of a batch, and its faults.

        There are no samples if the part is lost.
        """
        shared: SharedImages = {}
        faults = PartFaults(0, {})
        samples = [self._load(key, shared, faults) for key in keys]
        bad = [index for index, sample in enumerate(samples) if sample is None]
        faults.skipped = len(bad)
        if len(bad) == len(keys) >= self.whole_batch:  # before time is spent on replacements
            faults.lost = f"all {len(keys)} rows of a batch"
        for index in bad:
            epoch, row = keys[index]
            candidates = () if faults.lost else self._candidates(row)
            loaded = (self._load((epoch, other), shared, faults) for other in candidates)
            samples[index] = next((sample for sample in loaded if sample is not None), None)
            if samples[index] is None and not faults.lost:
                faults.lost = f"row {row} and all rows tried in its place"
        return [sample for sample in samples if sample is not None], faults

    def collate(self, loaded: tuple[list[Sample], PartFaults]) -> dict[str, Any]:
        """Collate samples; adds ``faults`` if there are any."""
        samples, faults = loaded
        if faults.lost:  # an error here would reach the training process wrapped in a traceback
            return {"faults": faults}
        batch = self.dataset.collate(self.encoder, samples)
        return {**batch, "faults": faults} if faults.skipped else dict(batch)

    def _load(self, key: tuple[int, int], shared: SharedImages, faults: PartFaults) -> Sample | None:
        if key[1] in faults.reasons:
            return None
        try:
            return self.dataset.load(key, shared)
        except (ImageError, SchemaError) as error:
            faults.reasons[key[1]] = str(error)
            return None

    def _candidates(self, row: int) -> Iterator[int]:
        """Yield rows that may replace a bad one: the next ones, then some further on.

        Lists are often sorted by folder, so that bad rows are neighbors if a folder is missing.
        """
        size, groups = len(self.dataset), self.dataset.groups
        further = (_NEAREST << power for power in range(1, size.bit_length()))
        for offset in [*range(1, _NEAREST + 1), *further]:
            other = (row + offset) % size
            if offset >= size:
                return
            if groups is not None:  # the row in the same place, so that different rows have different replacements
                place = self.dataset.rows_of(int(groups[row])).index(row)
                rows = self.dataset.rows_of(int(groups[other]))
                other = rows[place % len(rows)]
            yield other


@dataclass
class SkippedRows:
    """Bad rows of a run, the same on all ranks after `gather`."""

    name: str
    dataset: TrainSet
    folder: Path
    total: int = 0
    before: int = 0  # of earlier epochs
    reasons: dict[int, str] = field(default_factory=dict)
    _pending: list[PartFaults] = field(default_factory=list)
    _written: int = 0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {"total": self.total, "before": self.before, "reasons": dict(self.reasons)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        self.total, self.before, self.reasons = state["total"], state["before"], state["reasons"]

    def add(self, parts: Iterable[dict[str, Any]]) -> None:
        """Take the faults out of the parts of a batch that is trained on next.

        Raises:
            BadRowsError: If a part is lost.
        """
        for faults in [part.pop("faults") for part in parts if "faults" in part]:
            self._pending.append(faults)
            if faults.lost:
                self._merge(self._pending)
                self._write()
                self._refuse(f"{faults.lost} are", next(iter(faults.reasons.values())))

    def gather(self) -> None:
        """Add the faults of all ranks since the last call."""
        for pending in distributed.gather_objects(self._pending):
            self._merge(pending)
        self._pending = []

    def begin_epoch(self) -> None:
        """Count the bad rows of the epoch from here."""
        self.before = self.total

    def check(self, step: int) -> None:
        """Compare the fraction of bad rows in this epoch with `TrainConfig.max_bad_share`.

        Within an epoch it may be exceeded by chance, by three standard deviations.

        Args:
            step: Steps since the start of the run, at least one.

        Raises:
            BadRowsError: If it is exceeded; the message names an example and the list of bad rows.
        """
        train = self.dataset.train
        steps = len(self.dataset) // train.batch_size
        seen = (step % steps or steps) * train.batch_size
        count, limit = self.total - self.before, train.max_bad_share
        chance = 0.0 if step % steps == 0 or not limit else max(LEAST_ROWS, 3 * math.sqrt(limit * seen))
        if count > limit * seen + chance:
            self.write()
            share = f"{count} of {seen} rows ({count / seen:.2%}) were"
            self._refuse(share, next(iter(self.reasons.values())), f", more than max_bad_share ({limit:g})")

    def write(self) -> None:
        """Write the list of bad rows if it has changed, on rank 0."""
        if distributed.rank() == 0 and self._written != len(self.reasons):
            self._write()

    def report(self, step: int) -> None:
        """Log how many rows were replaced until a step, if any, and complete the list."""
        if self.total:
            self.write()
            _logger.warning(
                "%s: %d of %d rows were malformed or without a readable image; others replaced them, see %s",
                self.name,
                self.total,
                step * self.dataset.train.batch_size,
                self.folder / LIST,
            )

    def clear(self) -> None:
        """Delete the list of an earlier run."""
        if distributed.rank() == 0:
            (self.folder / LIST).unlink(missing_ok=True)

    def _write(self) -> None:
        lines = []
        for row, reason in sorted(self.reasons.items()):
            lines.append(json.dumps({**self.dataset.describe(row), "reason": reason}) + "\n")
        write_file(self.folder / LIST, "".join(lines))
        self._written = len(self.reasons)

    def _merge(self, pending: Iterable[PartFaults]) -> None:
        for faults in pending:
            self.total += faults.skipped
            self.reasons |= faults.reasons

    def _refuse(self, rows: str, example: str, limit: str = "") -> None:
        raise BadRowsError(
            f"{self.name}: {rows} malformed or without a readable image{limit}, such as {example}; restore what "
            f"{self.folder / LIST} lists, take it out of the training list, or raise max_bad_share"
        )
