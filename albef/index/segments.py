"""Writer for the segments of an index (`albef.index.index`).

n = rows, L = tokens, T = tokens of all rows, W = width, P = projection width.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef.data.files import new_folder
from albef.index import index
from albef.index.index import Collection, Rows, SearchIndexError, Segment

Floats = NDArray[np.floating[Any]]
Batch = tuple[Floats, Floats, NDArray[np.int64]]
"""Embeddings ``(n, L, W)``, features ``(n, P)`` and 0/1 masks ``(n, L)``."""
COPIED_ROWS = 64
"""Rows copied at a time when a segment is compacted."""


def quantize(embeds: Floats) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize token embeddings ``(T, W)`` to int8.

    Returns:
        int8 embeddings and the scale ``(T,)`` of each token, which maps its largest magnitude to 127.
    """
    scales = (np.abs(embeds).max(axis=1) / 127).astype(np.float32)
    scales[scales == 0] = 1
    return np.rint(embeds / scales[:, None]).astype(np.int8), scales


class _TokenFile:
    """Append-only ``.npy`` file of token embeddings; `close` writes the final row count."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        self.count, self.width = 0, 0
        self.file = path.open("wb")

    def append(self, tokens: Floats) -> None:
        if not self.width:
            self.width = tokens.shape[1]
            self._write_header()
        self.file.write(np.ascontiguousarray(tokens, dtype=self.dtype).tobytes())
        self.count += len(tokens)

    def _write_header(self) -> None:
        # NumPy pads the header, so its length does not depend on the number of rows.
        head = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self.file, {**head, "shape": (self.count, self.width)})

    def close(self) -> None:
        end = self.file.tell()
        self.file.seek(0)
        self._write_header()
        self.file.seek(end)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def write(folder: Path, segment: Segment, ids: Sequence[str], batches: Iterable[Batch], dtype: str) -> None:
    """Write a segment into the folder of an index atomically.

    Args:
        ids: Ids of all rows.
        batches: All rows, in the order of ``ids``.
        dtype: Type of the stored embeddings: float32, float16, or int8 with one scale per token.

    Raises:
        SearchIndexError: If the number of rows in the batches differs from the number of ids.
    """
    with new_folder(folder / segment.name) as aside:
        lengths: list[int] = []
        features: list[Floats] = []
        scales: list[Floats] = []
        with closing(_TokenFile(aside / index.EMBEDS, dtype)) as embeds:
            for states, batch_features, mask in batches:
                tokens: Any = states[mask.astype(bool)]
                if embeds.dtype == np.int8:
                    tokens, scale = quantize(tokens)
                    scales.append(scale)
                embeds.append(tokens)
                lengths.extend(int(length) for length in mask.sum(axis=1))
                features.append(np.asarray(batch_features, dtype=np.float32))
        if len(lengths) != segment.rows or len(ids) != segment.rows:
            raise SearchIndexError(f"{folder / segment.name}: {len(lengths)} encoded rows, expected {segment.rows}")
        names = [name.encode("utf-8") for name in ids]
        np.save(aside / index.STARTS, _starts(lengths))
        np.save(aside / index.FEATURES, np.concatenate(features))
        np.save(aside / index.OFFSETS, _starts([len(name) for name in names]))
        (aside / index.IDS).write_bytes(b"".join(names))
        if scales:
            np.save(aside / index.SCALES, np.concatenate(scales))


def _starts(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64)


def copy(folder: Path, segment: Segment, source: Collection, rows: Rows, dtype: str) -> None:
    """Copy rows of an open index into a new segment."""
    chunks = [rows[start : start + COPIED_ROWS] for start in range(0, len(rows), COPIED_ROWS)]

    def batches() -> Iterable[Batch]:
        for chunk in chunks:
            embeds, mask = source.embeds(chunk)
            yield embeds, source.features(chunk), mask

    write(folder, segment, [source.name(int(row)) for row in rows], batches(), dtype)
