"""The indices of a gallery: exact while it is small, inverted lists above (faiss).

n = rows, P = projection width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Rows = NDArray[np.int64]

EXACT_BELOW = 100_000
"""Rows. Below, every row is compared: 256 dimensions are 100 MB and some 10 ms."""
RECALL, SHORTLIST = 0.99, 32
"""Inverted lists are probed until this share of a shortlist is that of the exact search."""
_POINTS = 64
"""Rows per list that k-means sees: more cost time, and move centroids little."""
_QUERIES = 500


@dataclass(frozen=True)
class Index:
    """A faiss index by row number, and how it came about; see `albef.index.index.Part`."""

    index: Any
    search: str
    trained_on: int


def build(features: Floats, rows: Rows, queries: Floats, exact_below: int = EXACT_BELOW) -> Index:
    """Index features ``(n, P)`` by their row numbers ``(n,)``.

    Args:
        queries: What will be searched with ``(m, P)``; tells how many inverted lists a search has to probe.
    """
    import faiss

    features = np.ascontiguousarray(features, dtype=np.float32)
    width = features.shape[1]
    index: Any
    if len(rows) < exact_below:
        index = faiss.IndexIDMap(faiss.IndexFlatIP(width))
        index.add_with_ids(features, rows)
        return Index(index, "exact", 0)
    lists = min(round(4 * math.sqrt(len(rows))), len(rows))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid, index.cp.min_points_per_centroid, index.cp.seed = _POINTS, 1, 0
    sample = np.random.default_rng(0).permutation(len(rows))[: _POINTS * lists]
    index.train(features[np.sort(sample)])
    index.add_with_ids(features, rows)
    _tune(index, features, rows, queries)
    return Index(index, "ivf", len(rows))


def _tune(index: Any, features: Floats, rows: Rows, queries: Floats) -> None:
    """Set ``nprobe`` to the least power of 2 that reaches `RECALL`."""
    import faiss

    step = max(len(queries) // _QUERIES, 1)
    queries = np.ascontiguousarray(queries[::step], dtype=np.float32)
    k = min(SHORTLIST, len(rows))
    _, nearest = faiss.knn(queries, features, k, metric=faiss.METRIC_INNER_PRODUCT)
    exact = [set(line) for line in rows[nearest]]
    index.nprobe = 1
    while index.nprobe < index.nlist:
        _, found = index.search(queries, k)
        if sum(len(exact[i] & set(line)) for i, line in enumerate(found)) >= RECALL * k * len(queries):
            break
        index.nprobe = min(2 * index.nprobe, index.nlist)


def change(
    old: Index,
    removed: Rows,
    added: Rows,
    features: Floats,
    everything: Callable[[], tuple[Floats, Rows]],
    queries: Callable[[], Floats],
    exact_below: int = EXACT_BELOW,
) -> Index:
    """An index without ``removed`` rows and with ``added`` ones; it is made anew where its kind does not suit any more.

    Args:
        old: Is changed itself.
        features: Of the added rows.
        everything: Features and numbers of all rows after the change.
        queries: See `build`.
    """
    count = old.index.ntotal - len(removed) + len(added)
    search = "exact" if count < exact_below else "ivf"
    # Centroids of a quarter of what there is now fit it badly.
    if search != old.search or (search == "ivf" and count > 4 * old.trained_on):
        return build(*everything(), queries(), exact_below)
    if len(removed):
        old.index.remove_ids(removed)
    if len(added):
        old.index.add_with_ids(np.ascontiguousarray(features, dtype=np.float32), added)
    return old
