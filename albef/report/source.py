"""Reads what the report shows, and says which file is not as expected."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ReportError(ValueError):
    """A file that the report shows is missing or malformed."""


@dataclass(frozen=True)
class TextQuery:
    """A caption and the images ranked for it, best first."""

    text: str
    target: str
    ranked: list[tuple[str, float]]


@dataclass(frozen=True)
class ImageQuery:
    """An image and the captions ranked for it, best first."""

    image: str
    targets: list[str]
    ranked: list[tuple[str, float]]


@dataclass(frozen=True)
class Examples:
    """Queries of both directions."""

    text_to_image: list[TextQuery]
    image_to_text: list[ImageQuery]


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        ReportError: If it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror}); run the stage that writes it") from error
    except ValueError as error:
        raise ReportError(f"{path}: not valid JSON: {error}") from error


def read_metrics(path: Path) -> dict[str, float]:
    """Numbers by name.

    Raises:
        ReportError: If the file is no mapping of names to numbers.
    """
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(v, int | float) for v in data.values()):
        raise ReportError(f"{path}: expected a mapping of names to numbers")
    return data


def read_history(path: Path) -> dict[str, list[float]]:
    """Columns of a training history.

    Raises:
        ReportError: If the file is missing, lacks column ``step`` or holds something that is no number.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
            columns = {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else {"step": ""})}
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror}); run the stage that writes it") from error
    except (TypeError, ValueError) as error:
        raise ReportError(f"{path}: expected numbers under a header: {error}") from error
    if "step" not in columns:
        raise ReportError(f"{path}: expected a column 'step', found {', '.join(columns)}")
    return columns


def read_examples(path: Path) -> Examples:
    """Example queries of a retrieval evaluation.

    Raises:
        ReportError: If a field is missing or of another kind.
    """
    data = read_json(path)
    try:
        texts = [
            TextQuery(str(q["query"]), str(q["target"]), [(str(r["image"]), float(r["score"])) for r in q["ranked"]])
            for q in data["text_to_image"]
        ]
        pictures = [
            ImageQuery(
                str(q["query"]), list(q["target"]), [(str(r["caption"]), float(r["score"])) for r in q["ranked"]]
            )
            for q in data["image_to_text"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{path}: not the examples of a retrieval evaluation: {error!r}") from error
    return Examples(texts, pictures)
