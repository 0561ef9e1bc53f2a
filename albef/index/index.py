"""Image-text index of the retrieval endpoint; needs NumPy, SQLite and faiss only.

The index is computed ahead of time and shipped with the model repository. It is a folder of immutable subfolders and a
manifest that names the ones in use::

    manifest.json                   hash of the model that encoded it, folders in use
    images-7-0/  captions-7-0/      segments: embeddings and features; row numbers are never reused
    index-9/images.faiss            features of the rows in use, by row number
    index-9/items.db                ids and metadata of the rows in use

A change writes new folders and then replaces the manifest, so a reader sees either the old or the new index in full.
Folders that only the previous manifest names are removed by the change after it. Embeddings, features and faiss indices
are memory-mapped: a search in a million images reads the probed lists and the embeddings of its shortlist.

n = queries or rows, P = projection width, k = answers.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from albef.index import items
from albef.index.segments import Floats, Rows, SearchIndexError, Segment, Segments, check_bytes
from albef.serving import protocol

FORMAT = "albef-index-3"
MANIFEST = protocol.INDEX_MANIFEST
KINDS = items.KINDS
_FILTERS = 32
"""Filters whose rows are remembered, one bit per row."""
_FEW = 20_000
"""Selected rows that are compared one by one, 20 MB of features."""
_MORE = 4
"""Candidates looked at for distinct ones, as a multiple of those wanted."""


@dataclass(frozen=True)
class Part:
    """Images or captions of an index, as stored in the manifest.

    Args:
        next: Number of the next new row.
    """

    segments: tuple[Segment, ...] = ()
    next: int = 0


@dataclass(frozen=True)
class Manifest:
    """Manifest of an index.

    Args:
        model_hash, tokenizer_hash: Hashes of the graphs and the tokenizer that encoded the index.
        dtype: Type of the stored embeddings: float32, float16 or int8.
        generation: Number of changes.
        bytes: Size of the folder of this generation.
    """

    model_hash: str
    tokenizer_hash: str
    dtype: str
    generation: int
    images: Part
    captions: Part
    bytes: int = 0
    format: str = FORMAT

    @property
    def folder(self) -> str:
        """Name of the folder of faiss indices, ids and metadata."""
        return f"index-{self.generation}"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an index.

    Raises:
        SearchIndexError: If the manifest is missing, damaged or of another format.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("format") != FORMAT:
            raise SearchIndexError(f"{path}: format {data.get('format')!r}, expected {FORMAT!r}; build the index again")
        for kind in KINDS:
            segments = tuple(Segment(**segment) for segment in data[kind]["segments"])
            data[kind] = Part(segments, data[kind]["next"])
        return Manifest(**data)
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise SearchIndexError(f"{path}: cannot read the index ({error})") from error


@dataclass(frozen=True)
class Selection:
    """Rows that a filter selects.

    Args:
        rows: Row numbers, empty if there are many.
        bits: A bit per row number.
    """

    rows: Rows
    bits: Any
    count: int


class Collection:
    """Images or captions of an open index.

    Raises:
        SearchIndexError: If a file is missing, damaged or inconsistent with the others.
    """

    def __init__(self, folder: Path, kind: str, manifest: Manifest) -> None:
        import faiss

        self.kind, self.part = kind, getattr(manifest, kind)
        self.items = folder / manifest.folder / items.FILE
        self.segments = Segments(folder, self.part.segments, manifest.dtype)
        self.index: Any = None
        path = folder / manifest.folder / f"{kind}.faiss"
        try:
            self.db = items.read(self.items)
            if path.exists():
                self.index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except (sqlite3.Error, RuntimeError) as error:  # faiss raises RuntimeError
            raise SearchIndexError(f"{folder}: cannot read the index ({error})") from error
        self.select = lru_cache(_FILTERS)(self._select)

    def __len__(self) -> int:
        return self.index.ntotal if self.index else 0

    @property
    def rows(self) -> Rows:
        """Row numbers in use, ascending."""
        return items.rows(self.db, self.kind)

    def ids(self, rows: Sequence[int] | Rows) -> list[str]:
        """Return the ids of rows."""
        text = f"SELECT id FROM {self.kind} WHERE row = ?"
        return [self.db.execute(text, (int(row),)).fetchone()[0] for row in rows]

    def _select(self, where: str) -> Selection:
        """Return the rows that a filter selects; see `albef.index.items.select`."""
        rows = items.select(self.items, self.kind, where)
        chosen = np.zeros(self.part.next, dtype=bool)
        chosen[rows] = True
        return Selection(rows if len(rows) <= _FEW else rows[:0], np.packbits(chosen, bitorder="little"), len(rows))

    def search(self, features: Floats, k: int, selected: Selection | None = None) -> tuple[Floats, Rows]:
        """Find the ``k`` rows nearest to each feature vector.

        Args:
            features: Queries ``(n, P)``.
            selected: Rows to search; by default all.

        Returns:
            Similarities and row numbers, both ``(n, k)``, best first.
        """
        count = len(self) if selected is None else selected.count
        k = min(k, count)
        if not k:
            return np.empty((len(features), 0), dtype=np.float32), np.empty((len(features), 0), dtype=np.int64)
        queries = np.ascontiguousarray(features, dtype=np.float32)
        lists = getattr(self.index, "nlist", 0)
        if lists and selected is not None and len(selected.rows):  # comparing few rows is faster than finding them
            import faiss

            features = self.segments.features(selected.rows)
            scores, nearest = faiss.knn(queries, features, k, metric=faiss.METRIC_INNER_PRODUCT)
            return scores, selected.rows[nearest]
        # The fewer rows are selected, the more lists are probed, so that as many rows are compared.
        probed = min(math.ceil(self.index.nprobe * len(self) / count), lists) if lists else 0
        scores, rows = self._search(queries, k, selected, probed)
        if (rows < 0).any():  # the probed lists hold fewer than k rows
            scores, rows = self._search(queries, k, selected, lists)
        return scores, rows

    def _search(self, queries: Floats, k: int, selected: Selection | None, probed: int) -> tuple[Floats, Rows]:
        import faiss

        names: Any = faiss  # its type information lacks keyword arguments
        chosen = {} if selected is None else {"sel": names.IDSelectorBitmap(selected.bits)}
        params = names.SearchParametersIVF(nprobe=probed, **chosen) if probed else names.SearchParameters(**chosen)
        scores, rows = self.index.search(queries, k, params=params)
        return scores, rows

    def candidates(
        self, features: Floats, k: int, selected: Selection | None = None, distinct: float | None = None
    ) -> list[tuple[Floats, Rows]]:
        """Find up to ``k`` rows for each feature vector, as `search` does.

        Args:
            distinct: Leave out a row whose similarity to a better one is at least this. Up to four times ``k`` rows
                are looked at.

        Returns:
            Similarities and row numbers of each query, best first.
        """
        if distinct is None:
            return list(zip(*self.search(features, k, selected), strict=True))
        scores, rows = self.search(features, _MORE * k, selected)
        kept = [_distinct(self.segments.features(line), distinct, k) for line in rows]
        return [(line[keep], numbers[keep]) for line, numbers, keep in zip(scores, rows, kept, strict=True)]


def _distinct(features: Floats, threshold: float, k: int) -> list[int]:
    """Return the first ``k`` positions whose similarity to all returned before them is below a threshold."""
    kept: list[int] = []
    for position, vector in enumerate(features):
        if len(kept) < k and (not kept or float((features[kept] @ vector).max()) < threshold):
            kept.append(position)
    return kept


class ImageTextIndex:
    """Open index of images and captions.

    Raises:
        SearchIndexError: If a file is missing, damaged or inconsistent with the others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stamp = stamp(folder)
        self.manifest = read_manifest(folder)
        check_bytes(folder / self.manifest.folder, self.manifest.bytes)
        self.images = Collection(folder, "images", self.manifest)
        self.captions = Collection(folder, "captions", self.manifest)

    def check(self, model_hash: str, tokenizer_hash: str) -> ImageTextIndex:
        """Return this index after comparing its hashes.

        Raises:
            SearchIndexError: If another model or tokenizer encoded it.
        """
        for key, expected in (("model_hash", model_hash), ("tokenizer_hash", tokenizer_hash)):
            actual = getattr(self.manifest, key)
            if actual != expected:
                raise SearchIndexError(
                    f"{self.folder}: {key} is {actual[:12]} in the index but {expected[:12]} in the model repository; "
                    "build the index again"
                )
        return self


def stamp(folder: Path) -> tuple[int, int]:
    """Return modification time and inode of the manifest.

    They change whenever the manifest is replaced.

    Raises:
        SearchIndexError: If there is no manifest.
    """
    try:
        status = (folder / MANIFEST).stat()
    except OSError as error:
        raise SearchIndexError(f"{folder / MANIFEST}: cannot read the index ({error})") from error
    return status.st_mtime_ns, status.st_ino
