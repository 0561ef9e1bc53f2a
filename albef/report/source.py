"""Readers of pipeline outputs; errors name the file at fault."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any


class ReportError(ValueError):
    """A file that the report shows is missing or malformed."""


def malformed(path: Path, task: str, error: Exception) -> ReportError:
    """Return the error for a malformed file of examples."""
    return ReportError(f"{path}: not the examples of {task}: {error!r}")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ReportError: If the file cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror}); run the stage that writes it") from error
    except ValueError as error:
        raise ReportError(f"{path}: not valid JSON: {error}") from error


def read_metrics(path: Path) -> dict[str, float]:
    """Read a mapping of names to numbers.

    Raises:
        ReportError: If the file is not such a mapping.
    """
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(v, int | float) for v in data.values()):
        raise ReportError(f"{path}: expected a mapping of names to numbers")
    return data


def read_columns(path: Path, leave_out: Collection[str] = ()) -> dict[str, list[float]]:
    """Read a table of numbers as columns; empty cells are NaN.

    Args:
        leave_out: Columns that do not hold numbers.

    Raises:
        ReportError: If the file is missing or holds anything but numbers.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows, names = list(reader), [name for name in reader.fieldnames or () if name not in leave_out]
            return {name: [float("nan" if row[name] == "" else row[name]) for row in rows] for name in names}
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror}); run the stage that writes it") from error
    except (TypeError, ValueError) as error:
        raise ReportError(f"{path}: expected numbers under a header: {error}") from error


def read_history(path: Path) -> dict[str, list[float]]:
    """Read a training history as columns; empty cells are NaN.

    Raises:
        ReportError: If the file is missing, lacks the column ``step`` or holds anything but numbers.
    """
    columns = read_columns(path)
    if "step" not in columns:
        raise ReportError(f"{path}: expected a column 'step', found {', '.join(columns)}")
    return columns
