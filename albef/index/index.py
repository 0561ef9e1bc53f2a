"""The gallery: what retrieval searches, encoded ahead of time. NumPy and faiss only; it travels with the repository.

A gallery is a folder of things that never change, and a manifest that names those in use::

    gallery.json                    which model encoded it, which segments and indices count
    images-7/  captions-7/          segments: ids, embeddings, features; rows are numbered on and on
    index-9/images.faiss            the features of the rows that count, by row number
    index-9/images.npy              these rows, ascending

A change writes new folders, then replaces the manifest: a reader sees either gallery, whole. What the last manifest
alone named goes with the change after. Everything but the manifest and the row numbers is memory-mapped: a search of a
million pictures reads the lists that it probes, and the embeddings of its shortlist.

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

FORMAT = "albef-gallery-2"
MANIFEST = "gallery.json"
KINDS = ("images", "captions")
EMBEDS, SCALES, STARTS, FEATURES, IDS, OFFSETS = (
    "embeds.npy",
    "scales.npy",
    "starts.npy",
    "features.npy",
    "ids.utf8",
    "ids.npy",
)
"""Files of a segment: embeddings ``(T, W)``, the scale of each ``(T,)`` if they are int8, the first token of each row,
features, and ids one after the other with where each begins."""


class GalleryError(ValueError):
    """A gallery is damaged or belongs to another model."""


@dataclass(frozen=True)
class Segment:
    """A folder of encoded rows, numbered from ``first``."""

    name: str
    first: int
    rows: int


@dataclass(frozen=True)
class Part:
    """The images or the captions of a gallery.

    Args:
        index: Folder of the index.
        index_bytes: Size of its file: faiss maps one that is cut off without a word.
        count: Rows that count.
        next: Number of the next row to come.
        search: ``exact``, or ``ivf`` (inverted lists).
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
    """What a gallery says of itself; hashes are those of the graphs that encoded it.

    Args:
        dtype: Of the stored embeddings: float32, float16 or int8.
        generation: Counts the changes.
    """

    model_hash: str
    tokenizer_hash: str
    dtype: str
    generation: int
    images: Part
    captions: Part
    format: str = FORMAT


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a gallery.

    Raises:
        GalleryError: If there is none, or it is damaged or of another format.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("format") != FORMAT:
            raise GalleryError(f"{path}: format {data.get('format')!r}, expected {FORMAT!r}; build the gallery again")
        for kind in KINDS:
            segments = tuple(Segment(**segment) for segment in data[kind]["segments"])
            data[kind] = Part(**{**data[kind], "segments": segments})
        return Manifest(**data)
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise GalleryError(f"{path}: not a readable gallery ({error})") from error


class OpenSegment:
    """The mapped files of a segment."""

    def __init__(self, folder: Path, segment: Segment) -> None:
        self.first = segment.first
        self.embeds = np.load(folder / EMBEDS, mmap_mode="r")
        self.scales = np.load(folder / SCALES, mmap_mode="r") if self.embeds.dtype == np.int8 else None
        self.starts: Rows = np.load(folder / STARTS)
        self.features: Floats = np.load(folder / FEATURES, mmap_mode="r")
        self.offsets = np.load(folder / OFFSETS, mmap_mode="r")
        path = folder / IDS
        self.names = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
        numbers = {
            "rows": [segment.rows, len(self.starts) - 1, len(self.features), len(self.offsets) - 1],
            "tokens": [int(self.starts[-1]), len(self.embeds)] + ([] if self.scales is None else [len(self.scales)]),
            "bytes of ids": [int(self.offsets[-1]), len(self.names)],
        }
        for what, found in numbers.items():
            if len(set(found)) != 1:
                raise GalleryError(f"{folder}: the files disagree on the number of {what}: {found}")

    def name(self, row: int) -> str:
        """The id of a row of this segment."""
        return bytes(self.names[self.offsets[row] : self.offsets[row + 1]]).decode("utf-8")

    def tokens(self, row: int) -> NDArray[np.float32]:
        """The embeddings ``(L, W)`` of a row of this segment."""
        span = slice(int(self.starts[row]), int(self.starts[row + 1]))
        found: NDArray[np.float32] = self.embeds[span].astype(np.float32)
        if self.scales is not None:
            found *= self.scales[span, None]
        return found


class Collection:
    """The images, or the captions, of an opened gallery.

    Raises:
        GalleryError: If a file is missing, damaged or does not fit the others.
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
                if path.stat().st_size != part.index_bytes:
                    raise GalleryError(f"{path}: {path.stat().st_size} bytes, expected {part.index_bytes}")
                self.index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except GalleryError:
            raise
        except (OSError, ValueError, RuntimeError) as error:  # faiss raises RuntimeError
            raise GalleryError(f"{folder}: not a readable gallery ({error})") from error
        counts = [part.count, len(self.rows), self.index.ntotal if self.index else 0]
        if len(set(counts)) != 1:
            raise GalleryError(f"{folder}: the files disagree on the number of {kind}: {counts}")

    def __len__(self) -> int:
        return self.part.count

    def _at(self, row: int) -> tuple[OpenSegment, int]:
        segment = self.segments[int(np.searchsorted(self.firsts, row, side="right")) - 1]
        return segment, int(row) - segment.first

    def search(self, features: Floats, k: int) -> tuple[Floats, Rows]:
        """The ``k`` rows nearest to features ``(n, P)``, best first: similarities and row numbers, both ``(n, k)``."""
        k = min(k, len(self))
        if not k:
            return np.empty((len(features), 0), dtype=np.float32), np.empty((len(features), 0), dtype=np.int64)
        queries = np.ascontiguousarray(features, dtype=np.float32)
        scores, rows = self.index.search(queries, k)
        if (rows < 0).any():  # the lists probed hold fewer than k
            import faiss

            everywhere: Any = faiss.SearchParametersIVF(nprobe=self.index.nlist)  # type: ignore[call-arg]
            scores, rows = self.index.search(queries, k, params=everywhere)
        return scores, rows

    def name(self, row: int) -> str:
        """The id of a row."""
        segment, place = self._at(row)
        return segment.name(place)

    def features(self, rows: Sequence[int] | Rows) -> NDArray[np.float32]:
        """The features ``(n, P)`` of some rows."""
        wanted = np.asarray(rows, dtype=np.int64)
        owners = np.searchsorted(self.firsts, wanted, side="right") - 1
        width = self.segments[0].features.shape[1] if self.segments else 0
        found = np.empty((len(wanted), width), dtype=np.float32)
        for owner in np.unique(owners):
            segment, mine = self.segments[owner], owners == owner
            found[mine] = segment.features[wanted[mine] - segment.first]
        return found

    def embeds(self, rows: Sequence[int] | Rows, step: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Embeddings ``(n, L, W)`` and masks ``(n, L)`` of some rows, padded with zeros to the longest.

        Args:
            step: L is a multiple of this.
        """
        found = [segment.tokens(place) for segment, place in map(self._at, rows)]
        length = max((len(tokens) for tokens in found), default=0)
        length = -(-length // step) * step
        width = self.segments[0].embeds.shape[1]
        embeds = np.zeros((len(found), length, width), dtype=np.float32)
        mask = np.zeros((len(found), length), dtype=np.int64)
        for row, tokens in enumerate(found):
            embeds[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return embeds, mask


class Gallery:
    """An opened gallery.

    Raises:
        GalleryError: If a file is missing, damaged or does not fit the others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stamp = stamp(folder)
        self.manifest = read_manifest(folder)
        self.images = Collection(folder, "images", self.manifest.images)
        self.captions = Collection(folder, "captions", self.manifest.captions)

    def check(self, model_hash: str, tokenizer_hash: str) -> Gallery:
        """This gallery.

        Raises:
            GalleryError: If another model or tokenizer encoded it.
        """
        for key, want in (("model_hash", model_hash), ("tokenizer_hash", tokenizer_hash)):
            have = getattr(self.manifest, key)
            if have != want:
                raise GalleryError(
                    f"{self.folder}: the gallery's {key} is {have[:12]}, but that of the graphs {want[:12]}"
                )
        return self


def stamp(folder: Path) -> tuple[int, int]:
    """What tells a manifest from the one that replaced it.

    Raises:
        GalleryError: If there is none.
    """
    try:
        found = (folder / MANIFEST).stat()
    except OSError as error:
        raise GalleryError(f"{folder / MANIFEST}: not a readable gallery ({error})") from error
    return found.st_mtime_ns, found.st_ino


def top(scores: Floats, k: int) -> Rows:
    """Positions of the ``k`` largest of ``scores`` ``(n,)``, best first; equal ones keep their order."""
    return np.argsort(-scores, kind="stable")[:k].astype(np.int64)
