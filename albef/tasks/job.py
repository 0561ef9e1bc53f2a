"""What every evaluation is given, and how it writes its results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from albef.config import Config
from albef.data.files import write_text
from albef.models.albef import ALBEF

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

EXAMPLES = 8
"""Rows that the report shows, evenly spaced over the split."""


@dataclass(frozen=True)
class Job:
    """A model, the data to judge it by, and where to say how it did."""

    task: str
    config: Config
    model: ALBEF
    encoder: Encoder
    lists: Path
    images: Path
    """Folder that relative image paths start from."""
    out: Path

    def write_json(self, name: str, data: Any) -> None:
        """Write ``name`` into ``out``."""
        write_text(self.out / name, json.dumps(data, indent=1) + "\n")

    def write_csv(self, name: str, header: str, rows: Sequence[Sequence[object]]) -> None:
        """Write a table for plots; fractions with four decimals. No cell may hold a comma."""
        cells = [[f"{value:.4f}" if isinstance(value, float) else str(value) for value in row] for row in rows]
        write_text(self.out / name, "\n".join([header, *(",".join(row) for row in cells)]) + "\n")

    def write_metrics(self, metrics: dict[str, float]) -> None:
        """Write ``metrics.json``: last of all, so that it tells of a whole evaluation."""
        self.write_json("metrics.json", dict(sorted(metrics.items())))


def spaced(count: int, number: int = EXAMPLES) -> list[int]:
    """Up to ``number`` of ``count`` rows, evenly spaced, first and last among them."""
    return [int(row) for row in np.linspace(0, count - 1, min(number, count))]
