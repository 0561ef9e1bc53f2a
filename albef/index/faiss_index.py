"""faiss indices: exact search for small indices, inverted lists above a threshold.

n = rows, P = projection width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from albef.index.segments import Floats, Rows

EXACT_BELOW = 100_000
"""Rows below which search is exhaustive: with 256 dimensions 100 MB and some 10 ms."""
RECALL, SHORTLIST = 0.99, 32
"""Fraction of the exact shortlist, and its length, that the probed inverted lists have to find."""
_POINTS_PER_LIST = 64
"""Rows per list given to k-means; more rows take longer and barely move the centroids."""
_TUNING_QUERIES = 500


def build(features: Floats, rows: Rows, queries: Floats, exact_below: int = EXACT_BELOW) -> Any:
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
        return index
    lists = min(round(4 * math.sqrt(len(rows))), len(rows))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid, index.cp.min_points_per_centroid, index.cp.seed = _POINTS_PER_LIST, 1, 0
    sample = np.random.default_rng(0).permutation(len(rows))[: _POINTS_PER_LIST * lists]
    index.train(features[np.sort(sample)])
    index.add_with_ids(features, rows)
    _tune_nprobe(index, features, rows, queries)
    return index


def _tune_nprobe(index: Any, features: Floats, rows: Rows, queries: Floats) -> None:
    """Set ``nprobe`` to the smallest power of 2 that reaches `RECALL`."""
    import faiss

    queries = np.ascontiguousarray(sample(queries), dtype=np.float32)
    k = min(SHORTLIST, len(rows))
    _, nearest = faiss.knn(queries, features, k, metric=faiss.METRIC_INNER_PRODUCT)
    exact = [set(line) for line in rows[nearest]]
    index.nprobe = 1
    while index.nprobe < index.nlist:
        _, results = index.search(queries, k)
        if sum(len(exact[i] & set(line)) for i, line in enumerate(results)) >= RECALL * k * len(queries):
            break
        index.nprobe = min(2 * index.nprobe, index.nlist)


def sample(queries: Any) -> Any:
    """Return every n-th of the queries, or of their row numbers, so that about `_TUNING_QUERIES` remain."""
    return queries[:: max(len(queries) // _TUNING_QUERIES, 1)]


def update(
    old: Any,
    before: Rows,
    after: Rows,
    features: Callable[[Rows], Floats],
    queries: Callable[[], Floats],
    exact_below: int = EXACT_BELOW,
) -> Any:
    """Return the index of the rows in use after a change.

    Rows are added and removed. A small index that became large, or the reverse, is built again, as is one that has
    more than four times the rows that its lists were made for: their centroids fit the rest badly.

    Args:
        old: Index to change, modified in place; None if there is none.
        features: Returns features of rows.
        queries: Returns sample queries, see `build`.
    """
    lists = getattr(old, "nlist", 0)
    if old is None or (len(after) < exact_below) != (not lists) or 0 < lists < 2 * math.sqrt(len(after)):
        return build(features(after), after, queries(), exact_below)
    removed, added = np.setdiff1d(before, after), np.setdiff1d(after, before)
    if len(removed):
        old.remove_ids(removed)
    if len(added):
        old.add_with_ids(np.ascontiguousarray(features(added), dtype=np.float32), added)
    return old
