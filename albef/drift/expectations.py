"""Great Expectations suite for the requests of an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from albef.config import DriftConfig
from albef.drift.reference import Column, Endpoint
from albef.drift.sample import Row

_MEDIANS = ("width", "height", "bytes")
_DISTRIBUTIONS = ("brightness", "contrast", "words", "tokens", "pieces", "confidence")
_LABELS = {
    "width": "image width",
    "height": "image height",
    "bytes": "file size",
    "brightness": "brightness of images",
    "contrast": "contrast of images",
    "words": "words per question",
    "tokens": "tokens per question",
    "pieces": "tokens per word",
    "unknown": "fraction of unknown tokens",
    "confidence": "probability of the first answer",
}
_MIN_TOLERANCE = 0.05  # of a mean, relative to it, as a reference may have almost no variance


@dataclass(frozen=True)
class Check:
    """Expectation with its description.

    ``quantity`` names the observed value, ``expected`` describes its bounds.
    """

    name: str
    quantity: str
    expected: str
    expectation: Any


def checks(e: Any, config: DriftConfig, reference: Endpoint, rows: Sequence[Row]) -> list[Check]:
    """Return checks of all statistics with a reference and enough rows.

    Args:
        e: Module ``great_expectations.expectations``.
    """
    result: list[Check] = []
    for name, column in reference.columns.items():
        if sum(row.get(name) is not None for row in rows) >= config.min_rows:
            result += _column_checks(e, config, name, column)
    return result


def _column_checks(e: Any, config: DriftConfig, name: str, column: Column) -> list[Check]:
    label = _LABELS[name]

    def check(kind: Any, title: str, quantity: str, expected: str, **arguments: Any) -> Check:
        notes = f"{quantity[0].upper()}{quantity[1:]}: expected {expected}."
        return Check(
            title, quantity, expected, kind(meta={"name": title}, notes=notes, severity="critical", **arguments)
        )

    if name in _MEDIANS:
        low, high = column.median / config.max_size_ratio, column.median * config.max_size_ratio
        expected = f"{low:.4g} to {high:.4g}, the reference has {column.median:.4g}"
        bounds = {"min_value": low, "max_value": high}
        return [
            check(e.ExpectColumnMedianToBeBetween, f"{name}_median", f"median {label}", expected, column=name, **bounds)
        ]
    if name == "unknown":
        limit = column.mean + config.max_unknown
        expected = f"at most {limit:.4g}, the reference has {column.mean:.4g}"
        return [check(e.ExpectColumnMeanToBeBetween, "unknown_share", label, expected, column=name, max_value=limit)]
    if name not in _DISTRIBUTIONS:
        return []
    tolerance = max(config.max_shift * column.std, _MIN_TOLERANCE * abs(column.mean))
    low, high = column.mean - tolerance, column.mean + tolerance
    mean = check(
        e.ExpectColumnMeanToBeBetween,
        f"{name}_mean",
        f"mean {label}",
        f"{low:.4g} to {high:.4g}, the reference has {column.mean:.4g}",
        column=name,
        min_value=low,
        max_value=high,
    )
    distribution = check(
        e.ExpectColumnKLDivergenceToBeLessThan,
        f"{name}_distribution",
        f"divergence of the {label}",
        f"at most {config.max_divergence:g}",
        column=f"{name}_range",
        partition_object={"values": bin_names(column), "weights": column.weights},
        threshold=config.max_divergence,
    )
    return [mean, distribution]


def bin_names(column: Column) -> list[str]:
    """Return the names of a distribution's bins."""
    edges = [f"{edge:.4g}" for edge in column.edges]
    # The first edge is just below the smallest value of the reference.
    inner = [f"{number:02d}: to {high}" for number, high in enumerate(edges[1:], 1)]
    return ["00: below the reference", *inner, f"{len(edges):02d}: above the reference"]


def feature_table(reference: Endpoint, rows: Sequence[Row]) -> pd.DataFrame:
    """Return the statistics of each row and their bins.

    Bins are those of the reference's distributions.
    """
    frame = pd.DataFrame({"row": range(len(rows))})
    for name, column in reference.columns.items():
        values = np.array([row.get(name) for row in rows], dtype=np.float64)  # None becomes NaN
        frame[name] = values
        if name in _DISTRIBUTIONS:
            names = pd.Series(np.array(bin_names(column), dtype=object)[np.digitize(values, column.edges, right=True)])
            frame[f"{name}_range"] = names.where(~np.isnan(values), None)
    return frame
