"""Perceptual hash of images.

It hardly changes when an image is resized or compressed again. It is the pHash of the literature: the signs of the
8 x 8 lowest frequencies of a small gray image. As scenes with different colors may have the same hash, a second
signature holds the mean colors of 4 x 4 cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS = 64
CELLS = 4
"""Cells per side of the color signature."""
_SIDE, _LOW = 32, 8
_FLAT = 8
"""Range of gray values below which an image has no structure to compare."""


_GRAY = np.array([0.299, 0.587, 0.114], np.float32)


@cache
def _cosines() -> NDArray[np.float32]:
    """Return the lowest frequencies of the discrete cosine transform, shape (_LOW, _SIDE)."""
    frequency, place = np.arange(_LOW)[:, None], np.arange(_SIDE)[None]
    return np.cos(np.pi * (2 * place + 1) * frequency / (2 * _SIDE)).astype(np.float32)


def thumbnail(image: Image.Image) -> bytes:
    """Return the pixels of an RGB image in the size that `signatures` takes."""
    return image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0).tobytes()


def signatures(thumbnails: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.bool_], NDArray[np.uint8]]:
    """Return hashes and color signatures of images.

    Returns:
        Hashes of 64 bits, shape (images,); whether an image has one, which those of a single color do not; and the mean
        colors of cells, row by row, shape (images, CELLS * CELLS * 3).
    """
    pixels = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, _SIDE, _SIDE, 3)
    step = _SIDE // CELLS
    cells = pixels.reshape(-1, CELLS, step, CELLS, step, 3).mean((2, 4), np.float32)
    gray = pixels.astype(np.float32) @ _GRAY
    low = (_cosines() @ gray @ _cosines().T).reshape(-1, BITS)
    bits = low > np.median(low, axis=1, keepdims=True)
    hashes = np.packbits(bits, axis=1).view(">u8").astype(np.uint64)[:, 0]
    structured = np.ptp(gray.reshape(-1, _SIDE * _SIDE), axis=1) >= _FLAT
    return hashes, structured, cells.round().astype(np.uint8).reshape(-1, 3 * CELLS * CELLS)


def search(
    queries: NDArray[np.uint64], hashes: NDArray[np.uint64], max_distance: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return all pairs of a query and a hash that differ in ``max_distance`` bits at most.

    Args:
        max_distance: 0 to 7.

    Returns:
        Number of the query, number of the hash, and bits, for each pair.
    """
    import faiss

    # Hashes that differ in fewer bits than there are bands agree in one band, so that the search is exact.
    bands = 4 if max_distance < 4 else 8
    index = faiss.IndexBinaryMultiHash(BITS, bands, BITS // bands)
    index.add(_bytes(hashes))
    ends, distance, place = index.range_search(_bytes(queries), max_distance + 1)
    query = np.repeat(np.arange(len(queries)), np.diff(ends).astype(np.int64))
    return query, place.astype(np.int64), distance.astype(np.int64)


def _bytes(hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, BITS // 8)
