"""Reader of the samples that `albef serve --sample-requests` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.serving.sample import COLUMNS

Row = dict[str, Any]
_REQUIRED = {"time": str, "endpoint": str, "version": int}
_LIMIT = 1e15  # above all valid statistics; the comparison also rejects NaN


class SampleError(ValueError):
    """A folder that does not hold a sample."""


@dataclass(frozen=True)
class Sample:
    """Rows of a sample by time, and the count of malformed lines."""

    rows: list[Row]
    malformed: int


def read(folder: Path) -> Sample:
    """Read the rows of a sample.

    Malformed lines, such as those truncated by a full disk, are skipped.

    Raises:
        SampleError: If the folder does not exist, or all lines in it are malformed.
    """
    if not folder.is_dir():
        raise SampleError(f"{folder}: no such folder, expected the output of `albef serve --sample-requests`")
    rows: list[Row] = []
    malformed = 0
    for path in sorted(folder.glob("*.jsonl")):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # the server removed an old file meanwhile
            continue
        for line in text.splitlines():
            row = _row(line)
            malformed += row is None
            rows += [row] if row is not None else []
    if malformed and not rows:
        raise SampleError(f"{folder}: {malformed} lines, none of them a record written by `albef serve`")
    return Sample(sorted(rows, key=lambda row: str(row["time"])), malformed)


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not all(isinstance(row.get(key), kind) for key, kind in _REQUIRED.items()):
        return None
    values = (row.get(key) for key in COLUMNS)
    return row if all(v is None or (type(v) in (int, float) and abs(v) < _LIMIT) for v in values) else None


def by_endpoint(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows of each endpoint, sorted by endpoint name."""
    result: dict[str, list[Row]] = {}
    for row in rows:
        result.setdefault(row["endpoint"], []).append(row)
    return dict(sorted(result.items()))
