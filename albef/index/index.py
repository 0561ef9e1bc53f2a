"""Image-text index of the retrieval endpoint; needs NumPy and faiss only.

The index is computed ahead of time and shipped with the model repository. It is a folder of immutable subfolders and a
manifest that names the ones in use::

    manifest.json                   hash of the model that encoded it, segments and faiss indices in use
    images-7/  captions-7/          segments: ids, embeddings, features; row numbers are never reused
    index-9/images.faiss            features of the rows in use, by row number
    index-9/images.npy              these row numbers, ascending

A change writes new folders and then replaces the manifest, so a reader sees either the old or the new index in full.
Folders that only the previous manifest names are removed by the change after it. Everything except the manifest and
the row numbers is memory-mapped: a search in a million images reads the probed lists and the embeddings of its
shortlist.

n = queries or rows, L = tokens, T = tokens of a segment, W = width, P = projection width, k = answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Rows = NDArray[np.int64]

FORMAT = "albef-index-2"
MANIFEST = "manifest.json"
KINDS = ("images", "captions")
EMBEDS, SCALES, STARTS, FEATURES, IDS, OFFSETS = (
    "embeds.npy",
    "scales.npy",
    "starts.npy",
    "features.npy",
    "ids.utf8",
    "ids.npy",
)
"""Files of a segment: embeddings ``(T, W)``, their scales ``(T,)`` if they are int8, the first token of each row,
features, concatenated ids, and the offset of each id."""


class SearchIndexError(ValueError):
    """The index is damaged or was encoded by another model."""


@dataclass(frozen=True)
class Segment:
    """Folder of encoded rows, numbered from ``first``."""

    name: str
    first: int
    rows: int


@dataclass(frozen=True)
class Part:
    """Images or captions of an index, as stored in the manifest.

    Args:
        index: Folder of the faiss index.
        index_bytes: Size of the faiss file; faiss maps a truncated file without an error.
        count: Rows in use.
        next: Number of the next new row.
        search: ``exact`` or ``ivf`` (inverted lists).
        trained_on: Rows that the inverted lists were trained on.
    """

    segments: tuple[Segment, ...] = ()
    index: str = ""
    index_bytes: int = 0
    count: int = 0
    next: int = 0
    search: str = "exact"
    trained_on: int = 0


@dataclass(frozen=True)
class Manifest:
    """Manifest of an index.

    Args:
        model_hash, tokenizer_hash: Hashes of the graphs and the tokenizer that encoded the index.
        dtype: Type of the stored embeddings: float32, float16 or int8.
        generation: Number of changes.
    """

    model_hash: str
    tokenizer_hash: str
    dtype: str
    generation: int
    images: Part
    captions: Part
    format: str = FORMAT


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
            data[kind] = Part(**{**data[kind], "segments": segments})
        return Manifest(**data)
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise SearchIndexError(f"{path}: cannot read the index ({error})") from error


class OpenSegment:
    """Memory-mapped files of a segment."""

    def __init__(self, folder: Path, segment: Segment) -> None:
        self.first = segment.first
        self.embeds = np.load(folder / EMBEDS, mmap_mode="r")
        self.scales = np.load(folder / SCALES, mmap_mode="r") if self.embeds.dtype == np.int8 else None
        self.starts: Rows = np.load(folder / STARTS)
        self.features: Floats = np.load(folder / FEATURES, mmap_mode="r")
        self.offsets = np.load(folder / OFFSETS, mmap_mode="r")
        path = folder / IDS
        self.names = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
        counts = {
            "rows": [segment.rows, len(self.starts) - 1, len(self.features), len(self.offsets) - 1],
            "tokens": [int(self.starts[-1]), len(self.embeds)] + ([] if self.scales is None else [len(self.scales)]),
            "bytes of ids": [int(self.offsets[-1]), len(self.names)],
        }
        for unit, values in counts.items():
            if len(set(values)) != 1:
                raise SearchIndexError(f"{folder}: inconsistent number of {unit}: {values}; build the index again")

    def name(self, row: int) -> str:
        """Return the id of a row of this segment."""
        return bytes(self.names[self.offsets[row] : self.offsets[row + 1]]).decode("utf-8")

    def tokens(self, row: int) -> NDArray[np.float32]:
        """Return the embeddings ``(L, W)`` of a row of this segment."""
        span = slice(int(self.starts[row]), int(self.starts[row + 1]))
        embeds: NDArray[np.float32] = self.embeds[span].astype(np.float32)
        if self.scales is not None:
            embeds *= self.scales[span, None]
        return embeds


class Collection:
    """Images or captions of an open index.

    Raises:
        SearchIndexError: If a file is missing, damaged or inconsistent with the others.
    """

    def __init__(self, folder: Path, kind: str, part: Part) -> None:
        import faiss

        self.part = part
        self.firsts = np.array([segment.first for segment in part.segments], dtype=np.int64)
        self.index: Any = None
        self.rows: Rows = np.empty(0, dtype=np.int64)
        try:
            self.segments = [OpenSegment(folder / segment.name, segment) for segment in part.segments]
            if part.count:
                self.rows = np.load(folder / part.index / f"{kind}.npy")
                path = folder / part.index / f"{kind}.faiss"
                size = path.stat().st_size
                if size != part.index_bytes:
                    raise SearchIndexError(f"{path}: {size} bytes, expected {part.index_bytes}; build the index again")
                self.index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except SearchIndexError:
            raise
        except (OSError, ValueError, RuntimeError) as error:  # faiss raises RuntimeError
            raise SearchIndexError(f"{folder}: cannot read the index ({error})") from error
        counts = [part.count, len(self.rows), self.index.ntotal if self.index else 0]
        if len(set(counts)) != 1:
            raise SearchIndexError(f"{folder}: inconsistent number of {kind}: {counts}; build the index again")

    def __len__(self) -> int:
        return self.part.count

    def _locate(self, row: int) -> tuple[OpenSegment, int]:
        segment = self.segments[int(np.searchsorted(self.firsts, row, side="right")) - 1]
        return segment, int(row) - segment.first

    def search(self, features: Floats, k: int) -> tuple[Floats, Rows]:
        """Find the ``k`` rows nearest to each feature vector.

        Args:
            features: Queries ``(n, P)``.

        Returns:
            Similarities and row numbers, both ``(n, k)``, best first.
        """
        k = min(k, len(self))
        if not k:
            return np.empty((len(features), 0), dtype=np.float32), np.empty((len(features), 0), dtype=np.int64)
        queries = np.ascontiguousarray(features, dtype=np.float32)
        scores, rows = self.index.search(queries, k)
        if (rows < 0).any():  # the probed lists hold fewer than k rows
            import faiss

            all_lists: Any = faiss.SearchParametersIVF(nprobe=self.index.nlist)  # type: ignore[call-arg]
            scores, rows = self.index.search(queries, k, params=all_lists)
        return scores, rows

    def name(self, row: int) -> str:
        """Return the id of a row."""
        segment, offset = self._locate(row)
        return segment.name(offset)

    def features(self, rows: Sequence[int] | Rows) -> NDArray[np.float32]:
        """Return the features ``(n, P)`` of rows."""
        numbers = np.asarray(rows, dtype=np.int64)
        owners = np.searchsorted(self.firsts, numbers, side="right") - 1
        width = self.segments[0].features.shape[1] if self.segments else 0
        features = np.empty((len(numbers), width), dtype=np.float32)
        for owner in np.unique(owners):
            segment, mask = self.segments[owner], owners == owner
            features[mask] = segment.features[numbers[mask] - segment.first]
        return features

    def embeds(self, rows: Sequence[int] | Rows, step: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return embeddings ``(n, L, W)`` and masks ``(n, L)`` of rows.

        Args:
            step: Pad with zeros to the longest row, rounded up to a multiple of this.
        """
        items = [segment.tokens(offset) for segment, offset in map(self._locate, rows)]
        length = max((len(tokens) for tokens in items), default=0)
        length = -(-length // step) * step
        width = self.segments[0].embeds.shape[1]
        embeds = np.zeros((len(items), length, width), dtype=np.float32)
        mask = np.zeros((len(items), length), dtype=np.int64)
        for row, tokens in enumerate(items):
            embeds[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return embeds, mask


class ImageTextIndex:
    """Open index of images and captions.

    Raises:
        SearchIndexError: If a file is missing, damaged or inconsistent with the others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stamp = stamp(folder)
        self.manifest = read_manifest(folder)
        self.images = Collection(folder, "images", self.manifest.images)
        self.captions = Collection(folder, "captions", self.manifest.captions)

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


def top_k(scores: Floats, k: int) -> Rows:
    """Return positions of the ``k`` largest scores, best first.

    Ties keep their order.

    Args:
        scores: Scores ``(n,)``.
    """
    return np.argsort(-scores, kind="stable")[:k].astype(np.int64)
