"""faiss indices: exact search for small indices, inverted lists above a threshold.

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
"""Rows below which search is exhaustive: with 256 dimensions 100 MB and some 10 ms."""
RECALL, SHORTLIST = 0.99, 32
"""Fraction of the exact shortlist, and its length, that the probed inverted lists have to find."""
_POINTS_PER_LIST = 64
"""Rows per list given to k-means; more rows take longer and barely move the centroids."""
_TUNING_QUERIES = 500


@dataclass(frozen=True)
class FaissIndex:
    """faiss index by row number, with its search type; see `albef.index.index.Part`."""

    index: Any
    search: str
    trained_on: int


def build(features: Floats, rows: Rows, queries: Floats, exact_below: int = EXACT_BELOW) -> FaissIndex:
    """Index features ``(n, P)`` by their row numbers ``(n,)``.

    Args:
        queries: Sample queries ``(m, P)`` for choosing the number of inverted lists to probe.
    """
    import faiss

    features = np.ascontiguousarray(features, dtype=np.float32)
    width = features.shape[1]
    index: Any
    if len(rows) < exact_below:
        index = faiss.IndexIDMap(faiss.IndexFlatIP(width))
        index.add_with_ids(features, rows)
        return FaissIndex(index, "exact", 0)
    lists = min(round(4 * math.sqrt(len(rows))), len(rows))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid, index.cp.min_points_per_centroid, index.cp.seed = _POINTS_PER_LIST, 1, 0
    sample = np.random.default_rng(0).permutation(len(rows))[: _POINTS_PER_LIST * lists]
    index.train(features[np.sort(sample)])
    index.add_with_ids(features, rows)
    _tune_nprobe(index, features, rows, queries)
    return FaissIndex(index, "ivf", len(rows))


def _tune_nprobe(index: Any, features: Floats, rows: Rows, queries: Floats) -> None:
    """Set ``nprobe`` to the smallest power of 2 that reaches `RECALL`."""
    import faiss

    step = max(len(queries) // _TUNING_QUERIES, 1)
    queries = np.ascontiguousarray(queries[::step], dtype=np.float32)
    k = min(SHORTLIST, len(rows))
    _, nearest = faiss.knn(queries, features, k, metric=faiss.METRIC_INNER_PRODUCT)
    exact = [set(line) for line in rows[nearest]]
    index.nprobe = 1
    while index.nprobe < index.nlist:
        _, results = index.search(queries, k)
        if sum(len(exact[i] & set(line)) for i, line in enumerate(results)) >= RECALL * k * len(queries):
            break
        index.nprobe = min(2 * index.nprobe, index.nlist)


def change(
    old: FaissIndex,
    removed: Rows,
    added: Rows,
    features: Floats,
    everything: Callable[[], tuple[Floats, Rows]],
    queries: Callable[[], Floats],
    exact_below: int = EXACT_BELOW,
) -> FaissIndex:
    """Remove and add rows, rebuilding the index if necessary.

    A rebuild is necessary when the search type does not suit the new size.

    Args:
        old: Index to change; modified in place.
        features: Features of the added rows.
        everything: Returns features and numbers of all rows after the change.
        queries: Returns sample queries, see `build`.
    """
    count = old.index.ntotal - len(removed) + len(added)
    search = "exact" if count < exact_below else "ivf"
    # Centroids trained on less than a quarter of the rows fit the rest badly.
    if search != old.search or (search == "ivf" and count > 4 * old.trained_on):
        return build(*everything(), queries(), exact_below)
    if len(removed):
        old.index.remove_ids(removed)
    if len(added):
        old.index.add_with_ids(np.ascontiguousarray(features, dtype=np.float32), added)
    return old
