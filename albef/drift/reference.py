"""What requests are compared with: figures of the training sets, or of a sample of requests that were in order."""

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
from albef.data.files import image_root, write_text
from albef.data.images import decode
from albef.data.schema import images_of, read_list
from albef.data.tokenizer import Encoder, texts_of
from albef.drift.sample import Row, by_endpoint, read
from albef.serving.sample import COLUMNS, of_picture, of_text

LISTS = {
    "retrieval": ("retrieval_train", "pretrain"),
    "vqa": ("vqa_train",),
    "entailment": ("ve_train",),
    "grounding": ("grounding_train",),
}
"""What an endpoint's model was trained on: the first of these lists that there is."""

_BINS = 10
_DIGITS = 4  # of all figures


class BadReferenceError(ValueError):
    """A reference that cannot be made or read."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """Distribution of a figure.

    ``weights`` are those of the ranges between ``edges``, each with its upper edge, and of what is below and above.
    """

    rows: int
    mean: float
    std: float
    median: float
    edges: list[float]
    weights: list[float]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """What is known of an endpoint's requests: of what ``source``, and by name of figure."""

    source: str
    rows: int
    columns: dict[str, Column]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The file: endpoints by name."""

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
        rows: Rows of each list that are looked at; all where it has fewer.
        out: File to write.
        lists, images, tokenizer: The training sets, as training gets them. All of them or none.
        sample: Folder of `albef serve --sample-requests`. Beside lists it adds the confidence of answers, which no list
            knows; without them it is the whole reference.

    Raises:
        BadReferenceError: If there is neither, or nothing to look at in them.
        SchemaError, ImageError, SampleError, TokenizerError: If an input is broken.
    """
    found: dict[str, Endpoint] = {}
    if lists is not None and images is not None and tokenizer is not None:
        encoder = Encoder.from_file(tokenizer)
        for endpoint, names in LISTS.items():
            path = next((p for name in names if (p := lists / f"{name}.json").is_file()), None)
            if path is not None:
                found[endpoint] = describe(_trained(path, rows, image_root(images), encoder), path.stem)
        if not found:
            raise BadReferenceError(
                f"{lists}: none of the lists {', '.join(n for names in LISTS.values() for n in names)}"
            )
    elif lists is not None or images is not None or tokenizer is not None or sample is None:
        raise BadReferenceError("reference: expected --lists, --images and --tokenizer together, --sample, or both")
    if sample is not None:
        served = by_endpoint(read(sample).rows)
        if not served:
            raise BadReferenceError(f"{sample}: no request in the sample, expected some to learn from")
        for endpoint, asked in served.items():
            seen = describe(asked, "requests")
            if lists is None:
                found[endpoint] = seen
            elif endpoint in found and "confidence" in seen.columns:
                found[endpoint].columns["confidence"] = seen.columns["confidence"]
    write_text(out, json.dumps(asdict(Reference(endpoints=found)), indent=1) + "\n")


def _trained(path: Path, limit: int, root: Path, encoder: Encoder) -> list[Row]:
    """Figures of some rows of a list, the same ones each time."""
    records = read_list(path)
    chosen = sorted(Random(0).sample(range(len(records)), min(limit, len(records))))
    return list(_figures([records[row] for row in chosen], root, encoder, path.stem))


def _figures(records: Sequence[Any], root: Path, encoder: Encoder, name: str) -> Iterator[Row]:
    for record in tqdm(records, desc=name, unit="row", disable=None):
        path = images_of(record)[0]
        data = (root / path).read_bytes()
        # The answers of VQA are no part of a request.
        (text, *_) = texts_of({key: value for key, value in record.items() if key != "answer"})
        yield {**of_picture(decode(data, name=path), len(data)), **of_text(text, encoder)}


def describe(rows: Sequence[Row], source: str) -> Endpoint:
    """Distribution of every figure that some row has."""
    columns = {}
    for name in COLUMNS:
        values = np.array([row[name] for row in rows if row.get(name) is not None], dtype=np.float64)
        if len(values):
            columns[name] = _column(values)
    return Endpoint(source=source, rows=len(rows), columns=columns)


def _column(values: Any) -> Column:
    tenths = np.quantile(values, np.arange(1, _BINS) / _BINS, method="inverted_cdf")
    # What is outside of the reference altogether has ranges of its own, at both ends.
    edges = np.unique(np.round([values.min() - 10.0**-_DIGITS, *tenths, values.max()], _DIGITS))
    counts = np.bincount(np.digitize(values, edges, right=True), minlength=len(edges) + 1)
    # Half a row more each: what the reference has not seen is rare, not impossible.
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
        BadReferenceError: If the file is missing or is none.
    """
    try:
        found = from_dict(json.loads(path.read_text(encoding="utf-8")), Reference, str(path))
    except (OSError, ValueError) as error:
        raise BadReferenceError(f"{path}: not a reference as `albef reference` writes it ({error})") from error
    for name, endpoint in found.endpoints.items():
        for key, column in endpoint.columns.items():
            if key not in COLUMNS or len(column.weights) != len(column.edges) + 1 or min(column.weights) <= 0:
                raise BadReferenceError(f"{path}: endpoints.{name}.columns.{key}: not a distribution of a known figure")
    return found
