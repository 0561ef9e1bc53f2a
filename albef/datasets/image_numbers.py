"""Numbers of images: their places in the sorted set of all paths.

Paths are in Arrow arrays, so that millions of them need no objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK_ROWS = 100_000


class ImageNumbers:
    """Collects paths, then numbers them.

    Paths of large images that may be shrunk are added with ``shrink``; one other mention of the same path forbids it.
    """

    def __init__(self) -> None:
        self._new, self._chunks = list[str](), list["pa.Array"]()
        self._fixed: list[NDArray[np.bool_]] = []
        self._new_fixed: list[bool] = []

    def add(self, path: str, shrink: bool) -> None:
        """Add a mention of an image."""
        self._new.append(path)
        self._new_fixed.append(not shrink)
        if len(self._new) >= _CHUNK_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._chunks.append(pa.array(self._new, pa.large_string()))
        self._fixed.append(np.array(self._new_fixed, bool))
        self._new, self._new_fixed = [], []

    def finish(self) -> Iterator[int]:
        """Sort the paths and return the number of each mention, in the order of `add`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        self._flush()
        mentions = pa.chunked_array(self._chunks)
        self._chunks = []
        found = pc.unique(mentions)
        # Sorted by bytes of UTF-8, which is the order of Python, too.
        self._sorted = found.take(pc.array_sort_indices(found))
        numbers = pc.index_in(mentions, value_set=self._sorted).to_numpy()
        self._fixed_images = np.zeros(len(self._sorted), bool)
        self._fixed_images[numbers[np.concatenate(self._fixed)]] = True
        return (int(number) for number in numbers)

    def __iter__(self) -> Iterator[tuple[str, bool]]:
        """Yield the sorted paths, and whether the image may be shrunk; after `finish`."""
        for start in range(0, len(self._sorted), _CHUNK_ROWS):
            paths = self._sorted[start : start + _CHUNK_ROWS].to_pylist()
            yield from zip(paths, (~self._fixed_images[start : start + _CHUNK_ROWS]).tolist(), strict=True)

    def __len__(self) -> int:
        return len(self._sorted)
