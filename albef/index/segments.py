"""Segments of an index: folders of encoded rows, which are written once.

n = rows, L = tokens, T = tokens of all rows, W = width, P = projection width.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef.data.files import new_folder

Floats = NDArray[np.floating[Any]]
Rows = NDArray[np.int64]
Batch = tuple[Floats, Floats, NDArray[np.int64]]
"""Embeddings ``(n, L, W)``, features ``(n, P)`` and 0/1 masks ``(n, L)``."""
EMBEDS, SCALES, STARTS, FEATURES = "embeds.bin", "scales.npy", "starts.npy", "features.npy"
"""Files of a segment: embeddings ``(T, W)`` without a header, their scales ``(T,)`` if they are int8, the first
token of each row ``(n + 1,)``, and features ``(n, P)``."""
COPIED_ROWS = 64
"""Rows copied at a time when a segment is compacted."""
_OPEN = 100
"""Segments that stay open; each takes three of the process's file descriptors."""


class SearchIndexError(ValueError):
    """The index is damaged, does not fit the change, or was encoded by another model."""


@dataclass(frozen=True)
class Segment:
    """Folder of encoded rows, numbered from ``first``."""

    name: str
    first: int
    rows: int
    bytes: int = 0


def folder_bytes(folder: Path) -> int:
    """Return the size of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


class _OpenSegment:
    """Memory-mapped files of a segment."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self.starts, self.features = np.load(folder / STARTS), np.load(folder / FEATURES, mmap_mode="r")
        self.embeds = np.memmap(folder / EMBEDS, dtype, "r").reshape(self.starts[-1], -1)
        self.scales = np.load(folder / SCALES, mmap_mode="r") if dtype == "int8" else None

    def tokens(self, row: int) -> NDArray[np.float32]:
        """Return the embeddings ``(L, W)`` of a row of this segment."""
        span = slice(int(self.starts[row]), int(self.starts[row + 1]))
        embeds: NDArray[np.float32] = self.embeds[span].astype(np.float32)
        if self.scales is not None:
            embeds *= self.scales[span, None]
        return embeds


class Segments:
    """Embeddings and features by row number.

    Raises:
        SearchIndexError: If a file is missing or has another size than when it was written.
    """

    def __init__(self, folder: Path, segments: Sequence[Segment], dtype: str) -> None:
        self.firsts = np.array([segment.first for segment in segments], dtype=np.int64)
        for segment in segments:
            check_bytes(folder / segment.name, segment.bytes)
        self.open = lru_cache(_OPEN)(lambda number: _OpenSegment(folder / segments[number].name, dtype))

    def _owners(self, rows: Rows) -> Rows:
        return np.searchsorted(self.firsts, rows, side="right") - 1

    def features(self, rows: Sequence[int] | Rows) -> NDArray[np.float32]:
        """Return the features ``(n, P)`` of rows."""
        numbers = np.asarray(rows, dtype=np.int64)
        owners = self._owners(numbers)
        width = self.open(0).features.shape[1] if len(self.firsts) else 0
        features = np.empty((len(numbers), width), dtype=np.float32)
        for owner in np.unique(owners).tolist():
            mask = owners == owner
            features[mask] = self.open(owner).features[numbers[mask] - self.firsts[owner]]
        return features

    def embeds(self, rows: Sequence[int] | Rows, step: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return embeddings ``(n, L, W)`` and masks ``(n, L)`` of rows.

        Args:
            step: Pad with zeros to the longest row, rounded up to a multiple of this.
        """
        numbers = np.asarray(rows, dtype=np.int64)
        owners = self._owners(numbers).tolist()
        items = [self.open(o).tokens(int(row - self.firsts[o])) for o, row in zip(owners, numbers, strict=True)]
        length = -(-max(map(len, items)) // step) * step
        embeds = np.zeros((len(items), length, items[0].shape[1]), dtype=np.float32)
        mask = np.zeros((len(items), length), dtype=np.int64)
        for row, tokens in enumerate(items):
            embeds[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return embeds, mask


def check_bytes(folder: Path, expected: int) -> None:
    """Compare the size of a folder with that in the manifest.

    Without this check, a file that was cut would be mapped without an error.

    Raises:
        SearchIndexError: If it differs, or there is no such folder.
    """
    try:
        actual = folder_bytes(folder)
    except OSError as error:
        raise SearchIndexError(f"{folder}: cannot read the index ({error})") from error
    if actual != expected:
        raise SearchIndexError(f"{folder}: {actual} bytes, expected {expected}; build the index again")


def quantize(embeds: Floats) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize token embeddings ``(T, W)`` to int8.

    Returns:
        int8 embeddings and the scale ``(T,)`` of each token, which maps its largest magnitude to 127.
    """
    scales = (np.abs(embeds).max(axis=1) / 127).astype(np.float32)
    scales[scales == 0] = 1
    return np.rint(embeds / scales[:, None]).astype(np.int8), scales


def write(folder: Path, segment: Segment, batches: Iterable[Batch], dtype: str) -> None:
    """Write a segment into the folder of an index atomically.

    Args:
        dtype: Type of the stored embeddings: float32, float16, or int8 with one scale per token.

    Raises:
        SearchIndexError: If the number of rows in the batches differs from that of the segment.
    """
    with new_folder(folder / segment.name) as aside:
        lengths: list[int] = []
        features: list[Floats] = []
        scales: list[Floats] = []
        with (aside / EMBEDS).open("wb") as file:
            for states, batch_features, mask in batches:
                tokens: Any = states[mask.astype(bool)]
                if dtype == "int8":
                    tokens, scale = quantize(tokens)
                    scales.append(scale)
                file.write(tokens.astype(dtype).tobytes())
                lengths.extend(mask.sum(axis=1).tolist())
                features.append(np.asarray(batch_features, dtype=np.float32))
            os.fsync(file.fileno())
        if len(lengths) != segment.rows:
            raise SearchIndexError(f"{folder / segment.name}: {len(lengths)} encoded rows, expected {segment.rows}")
        np.save(aside / STARTS, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        np.save(aside / FEATURES, np.concatenate(features))
        if scales:
            np.save(aside / SCALES, np.concatenate(scales))


def copy(folder: Path, segment: Segment, source: Segments, rows: Rows, dtype: str) -> None:
    """Copy rows of an index into a new segment."""

    def batches() -> Iterable[Batch]:
        for start in range(0, len(rows), COPIED_ROWS):
            chunk = rows[start : start + COPIED_ROWS]
            embeds, mask = source.embeds(chunk)
            yield embeds, source.features(chunk), mask

    write(folder, segment, batches(), dtype)
