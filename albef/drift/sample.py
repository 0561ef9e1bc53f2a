"""Reads what `albef serve --sample-requests` wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.serving.sample import COLUMNS

Row = dict[str, Any]
_NAMES = {"time": str, "endpoint": str, "version": int}
_LARGE = 1e15  # nothing that is counted or measured here; NaN is not below it either


class SampleError(ValueError):
    """A folder that holds no sample."""


@dataclass(frozen=True)
class Sample:
    """Questions in the order of their times, and how many lines were no record of one."""

    rows: list[Row]
    broken: int


def read(folder: Path) -> Sample:
    """Every question of a sample. Lines that a full disk cut off are left out.

    Raises:
        SampleError: If there is no such folder, or nothing in it is a record of a question.
    """
    if not folder.is_dir():
        raise SampleError(f"{folder}: no such folder, expected the one of `albef serve --sample-requests`")
    rows: list[Row] = []
    broken = 0
    for path in sorted(folder.glob("*.jsonl")):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # its process has made room meanwhile
            continue
        for line in text.splitlines():
            row = _row(line)
            broken += row is None
            rows += [row] if row is not None else []
    if broken and not rows:
        raise SampleError(f"{folder}: {broken} lines, none the record of a question as `albef serve` writes it")
    return Sample(sorted(rows, key=lambda row: str(row["time"])), broken)


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not all(isinstance(row.get(key), kind) for key, kind in _NAMES.items()):
        return None
    figures = (row.get(key) for key in COLUMNS)
    return row if all(v is None or (type(v) in (int, float) and abs(v) < _LARGE) for v in figures) else None


def by_endpoint(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows of each endpoint, by name."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["endpoint"], []).append(row)
    return dict(sorted(found.items()))
