"""Drift reference: statistics of training sets or of sampled requests."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tqdm import tqdm

from albef.config import from_dict
from albef.data.images import decode
from albef.data.lists import Lists, Rows
from albef.data.tokenizer import Encoder, texts_of
from albef.drift.sample import Row, by_endpoint, read
from albef.io import write_file
from albef.serving.sample import COLUMNS, image_stats, text_stats
from albef.tasks import registry

_BINS = 10
_DIGITS = 4  # of all statistics


class BadReferenceError(ValueError):
    """A reference that cannot be computed or read."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """Distribution of a statistic.

    ``weights`` belong to the bins between ``edges``, each including its upper edge, and to one bin below and above.
    """

    rows: int
    mean: float
    std: float
    median: float
    edges: list[float]
    weights: list[float]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Distributions of an endpoint's requests by statistic, with their ``source``."""

    source: str
    rows: int
    columns: dict[str, Column]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Content of a reference file: endpoints by name."""

    endpoints: dict[str, Endpoint]


def run(
    rows: int,
    out: Path,
    lists: Path | None = None,
    images: Path | None = None,
    tokenizer: Path | None = None,
    sample: Path | None = None,
) -> None:
    """Write a reference.

    Args:
        rows: Number of rows sampled from each list; all rows of shorter lists are used.
        out: File to write.
        lists, images, tokenizer: Training data, as passed to training; either all or none.
        sample: Folder of `albef serve --sample-requests`. In addition to lists it provides the confidence of answers,
            which lists do not contain. Without lists it is the whole reference.

    Raises:
        BadReferenceError: If neither lists nor a sample are given, or they are empty.
        SchemaError, ImageError, SampleError, TokenizerError: If an input is malformed.
    """
    endpoints: dict[str, Endpoint] = {}
    if lists is not None and images is not None and tokenizer is not None:
        encoder, data = Encoder.from_file(tokenizer), Lists(lists, images)
        served = registry.served_tasks().items()
        known = {endpoint: names for task, endpoint in served if (names := registry.spec(task).request_lists)}
        for endpoint, names in known.items():
            name = next((name for name in names if name in data), None)
            if name is not None:
                endpoints[endpoint] = describe(list(_list_stats(data[name], name, rows, encoder)), name)
        if not endpoints:
            raise BadReferenceError(
                f"{lists}: expected one of the lists {', '.join(n for names in known.values() for n in names)}"
            )
    elif lists is not None or images is not None or tokenizer is not None or sample is None:
        raise BadReferenceError("reference: expected --lists, --images and --tokenizer together, --sample, or both")
    if sample is not None:
        sampled = by_endpoint(read(sample).rows)
        if not sampled:
            raise BadReferenceError(f"{sample}: the sample is empty, expected at least one request")
        for endpoint, requests in sampled.items():
            described = describe(requests, "requests")
            if lists is None:
                endpoints[endpoint] = described
            elif endpoint in endpoints and "confidence" in described.columns:
                endpoints[endpoint].columns["confidence"] = described.columns["confidence"]
    write_file(out, json.dumps(asdict(Reference(endpoints=endpoints)), indent=1) + "\n")


def _list_stats(rows: Rows, name: str, limit: int, encoder: Encoder) -> Iterator[Row]:
    """Yield statistics of a fixed random subset of a list."""
    chosen = sorted(Random(0).sample(range(len(rows)), min(limit, len(rows))))
    for row in tqdm(chosen, desc=name, unit="row", disable=None):
        record = rows[row]
        image = rows.images(row, record)[0]
        data = image.read()
        # Requests do not include the answers of VQA.
        (text, *_) = texts_of({key: value for key, value in record.items() if key != "answer"})
        yield {**image_stats(decode(data, name=image.name), len(data)), **text_stats(text, encoder)}


def describe(rows: Sequence[Row], source: str) -> Endpoint:
    """Return the distribution of every statistic that occurs in ``rows``."""
    columns = {}
    for name in COLUMNS:
        values = np.array([row[name] for row in rows if row.get(name) is not None], dtype=np.float64)
        if len(values):
            columns[name] = _column(values)
    return Endpoint(source=source, rows=len(rows), columns=columns)


def _column(values: Any) -> Column:
    quantiles = np.quantile(values, np.arange(1, _BINS) / _BINS, method="inverted_cdf")
    # Values outside the range of the reference fall into bins of their own at both ends.
    edges = np.unique(np.round([values.min() - 10.0**-_DIGITS, *quantiles, values.max()], _DIGITS))
    counts = np.bincount(np.digitize(values, edges, right=True), minlength=len(edges) + 1)
    # Additive smoothing by half a row, as values not in the reference are rare, not impossible.
    weights = (counts + 0.5) / (len(values) + 0.5 * len(counts))
    return Column(
        rows=len(values),
        mean=round(float(values.mean()), _DIGITS),
        std=round(float(values.std()), _DIGITS),
        median=round(float(np.median(values)), _DIGITS),
        edges=[float(edge) for edge in edges],
        weights=[float(weight) for weight in weights / math.fsum(weights)],
    )


def load(path: Path) -> Reference:
    """Read a reference.

    Raises:
        BadReferenceError: If the file is missing or malformed.
    """
    try:
        reference = from_dict(json.loads(path.read_text(encoding="utf-8")), Reference, str(path))
    except (OSError, ValueError) as error:
        raise BadReferenceError(f"{path}: not a reference written by `albef reference` ({error})") from error
    for name, endpoint in reference.endpoints.items():
        for key, column in endpoint.columns.items():
            if key not in COLUMNS or len(column.weights) != len(column.edges) + 1 or min(column.weights) <= 0:
                raise BadReferenceError(
                    f"{path}: endpoints.{name}.columns.{key}: expected the distribution of a known statistic"
                )
    return reference
