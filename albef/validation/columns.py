"""Facts as arrays: columns of Parquet files without an object a row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Keys = NDArray[np.uint64]
"""Hashes of 128 bits, shape (rows, 2)."""


def numbers(column: pa.ChunkedArray, missing: Any) -> NDArray[Any]:
    """Return a column of numbers, with ``missing`` in place of nulls."""
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(column, missing).to_numpy())


def keys(column: pa.ChunkedArray) -> Keys:
    """Return a column of hashes; zeros in place of nulls."""
    import pyarrow.compute as pc

    filled = pc.fill_null(column, bytes(16)).combine_chunks()
    filled = filled.chunk(0) if hasattr(filled, "chunk") else filled
    found = np.frombuffer(filled.buffers()[1], np.uint64).reshape(-1, 2)
    return found[filled.offset : filled.offset + len(filled)]


def lists(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all values of a column of lists, and the length of each list."""
    import pyarrow.compute as pc

    flat = np.asarray(pc.list_flatten(column).to_numpy(), np.int64)
    return flat, np.asarray(pc.list_value_length(column).to_numpy(), np.int64)


def first_of_equal(values: Keys) -> NDArray[np.int64]:
    """Return for each row the first row with the same key."""
    order = np.lexsort((values[:, 1], values[:, 0]))  # stable: equal keys stay in the order of their rows
    ordered = values[order]
    new = np.ones(len(order), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    first = np.empty(len(order), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    return first


def messages(rows: int, found: Iterable[tuple[int, str]]) -> NDArray[np.object_]:
    """Return an array of None with messages in some rows.

    Args:
        found: Rows and messages; the first message of a row counts.
    """
    result = np.full(rows, None, object)
    for row, message in found:
        if result[row] is None:
            result[row] = message
    return result
