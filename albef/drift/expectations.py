"""What is expected of an endpoint's requests, as expectations of Great Expectations with a sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from albef.config import DriftConfig
from albef.drift.reference import Column, Endpoint
from albef.drift.sample import Row

_SIZES = ("width", "height", "bytes")
_SHAPES = ("brightness", "contrast", "words", "tokens", "pieces", "confidence")
_WORDS = {
    "width": "picture width",
    "height": "picture height",
    "bytes": "file size",
    "brightness": "brightness of pictures",
    "contrast": "contrast of pictures",
    "words": "words a question",
    "tokens": "tokens a question",
    "pieces": "tokens a word",
    "unknown": "share of unknown tokens",
    "confidence": "probability of the first answer",
}
_LEAST = 0.05  # of a band about a mean, as a share of it: a reference may hardly vary


@dataclass(frozen=True)
class Check:
    """An expectation and how to tell of it: ``what`` was ``observed``, ``expected`` was something else."""

    name: str
    what: str
    expected: str
    expectation: Any


def checks(e: Any, config: DriftConfig, known: Endpoint, rows: Sequence[Row]) -> list[Check]:
    """Expectations of every figure that both the reference and enough rows have.

    Args:
        e: ``great_expectations.expectations``.
    """
    found: list[Check] = []
    for name, column in known.columns.items():
        if sum(row.get(name) is not None for row in rows) >= config.min_rows:
            found += _of_column(e, config, name, column)
    return found


def _of_column(e: Any, config: DriftConfig, name: str, column: Column) -> list[Check]:
    what = _WORDS[name]

    def check(kind: Any, title: str, what: str, expected: str, **arguments: Any) -> Check:
        notes = f"{what[0].upper()}{what[1:]}: expected {expected}."
        return Check(title, what, expected, kind(meta={"name": title}, notes=notes, severity="critical", **arguments))

    if name in _SIZES:
        low, high = column.median / config.max_size_ratio, column.median * config.max_size_ratio
        expected = f"{low:.4g} to {high:.4g}, the reference has {column.median:.4g}"
        bounds = {"min_value": low, "max_value": high}
        return [
            check(e.ExpectColumnMedianToBeBetween, f"{name}_median", f"median {what}", expected, column=name, **bounds)
        ]
    if name == "unknown":
        most = column.mean + config.max_unknown
        expected = f"at most {most:.4g}, the reference has {column.mean:.4g}"
        return [check(e.ExpectColumnMeanToBeBetween, "unknown_share", what, expected, column=name, max_value=most)]
    if name not in _SHAPES:
        return []
    reach = max(config.max_shift * column.std, _LEAST * abs(column.mean))
    low, high = column.mean - reach, column.mean + reach
    mean = check(
        e.ExpectColumnMeanToBeBetween,
        f"{name}_mean",
        f"mean {what}",
        f"{low:.4g} to {high:.4g}, the reference has {column.mean:.4g}",
        column=name,
        min_value=low,
        max_value=high,
    )
    distribution = check(
        e.ExpectColumnKLDivergenceToBeLessThan,
        f"{name}_distribution",
        f"divergence of the {what}",
        f"at most {config.max_divergence:g}",
        column=f"{name}_range",
        partition_object={"values": ranges(column), "weights": column.weights},
        threshold=config.max_divergence,
    )
    return [mean, distribution]


def ranges(column: Column) -> list[str]:
    """Names of a distribution's ranges."""
    edges = [f"{edge:.4g}" for edge in column.edges]
    # The first edge is just below the smallest value of the reference.
    inner = [f"{number:02d}: to {high}" for number, high in enumerate(edges[1:], 1)]
    return ["00: below the reference", *inner, f"{len(edges):02d}: above the reference"]


def table(known: Endpoint, rows: Sequence[Row]) -> pd.DataFrame:
    """A row a question: its figures, and the range of the reference's distribution that each is in."""
    frame = pd.DataFrame({"row": range(len(rows))})
    for name, column in known.columns.items():
        values = np.array([row.get(name) for row in rows], dtype=np.float64)  # None becomes NaN
        frame[name] = values
        if name in _SHAPES:
            names = pd.Series(np.array(ranges(column), dtype=object)[np.digitize(values, column.edges, right=True)])
            frame[f"{name}_range"] = names.where(~np.isnan(values), None)
    return frame
