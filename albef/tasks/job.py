"""Inputs of a task's evaluation, and writers of its results."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from albef import distributed
from albef.config import Config
from albef.data.files import format_rows
from albef.data.lists import Lists, Rows
from albef.io import write_file
from albef.models.albef import ALBEF
from albef.tasks import registry

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

_logger = logging.getLogger(__name__)
EXAMPLES = 8
"""Number of examples in the report, evenly spaced over the split."""


@dataclass(frozen=True)
class Job:
    """Model, evaluation data and output folder of an evaluation.

    Of several ranks, only the first writes results.

    Args:
        lists: Lists and images.
        out: Folder of the results.
    """

    task: str
    config: Config
    model: ALBEF
    encoder: Encoder
    lists: Lists
    out: Path

    def test_rows(self) -> Rows:
        """Return the rows of the task's test list; see `albef.data.lists.read_rows` for errors."""
        return self.lists[str(registry.spec(self.task).test_list)]

    def write_json(self, name: str, data: Any) -> None:
        """Write ``data`` as JSON to file ``name`` in the output folder."""
        self._write(self.out / name, json.dumps(data, indent=1) + "\n")

    def write_predictions(self, rows: Iterable[tuple[str, float, float | None]]) -> None:
        """Write the best answer to each row of the test list, with its probability, as ``shown/predictions.json``.

        Args:
            rows: Answer, probability, and accuracy of the answer, None if unknown.
        """
        predictions = [
            {"answer": answer, "probability": round(p, 4), "accuracy": None if right is None else round(right, 4)}
            for answer, p, right in rows
        ]
        self._write(self.out / "shown/predictions.json", format_rows(predictions))

    def write_csv(self, name: str, header: str, rows: Sequence[Sequence[object]]) -> None:
        """Write a CSV table; floats get four decimals.

        Cells must not contain commas.
        """
        cells = [[f"{value:.4f}" if isinstance(value, float) else str(value) for value in row] for row in rows]
        self._write(self.out / "plots" / name, "\n".join([header, *(",".join(row) for row in cells)]) + "\n")

    def write_metrics(self, metrics: dict[str, float]) -> None:
        """Write ``metrics.json``; call this last, as the file marks a complete evaluation.

        A result that may be chance is logged as a warning.
        """
        self.write_json("metrics.json", dict(sorted(metrics.items())))
        name, rows = registry.spec(self.task).headline, len(self.test_rows())
        if distributed.rank() == 0 and name in metrics and not above_chance(metrics[name], metrics.get("chance"), rows):
            _logger.warning(
                "%s: %s is %.3f, which is not better than chance (%.3f on %d rows): train longer, or on more data",
                self.task,
                name,
                metrics[name],
                metrics["chance"],
                rows,
            )

    def _write(self, path: Path, text: str) -> None:
        if distributed.rank() == 0:
            write_file(path, text)


def above_chance(value: float, chance: float | None, rows: int) -> bool:
    """Return whether a rate is above chance by two standard errors; True if chance is unknown."""
    return chance is None or value > chance + 2 * math.sqrt(chance * (1 - chance) / max(rows, 1))


def spaced(count: int, number: int = EXAMPLES) -> list[int]:
    """Return up to ``number`` of ``count`` rows, evenly spaced.

    The first and the last row are included.
    """
    return [int(row) for row in np.linspace(0, count - 1, min(number, count))]
