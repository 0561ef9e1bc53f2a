"""Facts of all images in memory, about 30 bytes each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef.validation.columns import first_of_equal, keys, numbers
from albef.validation.facts import Part
from albef.validation.perceptual_hash import CELLS, search

Rows = NDArray[np.int64]

_SEARCH_ROWS = 100_000
_COLOR_TOLERANCE = 16
"""Difference of the mean color of a cell, of 255, that compression and resizing stay below."""


class ImageIndex:
    """Sizes and hashes of the images of a data set, by row of the image table.

    Args:
        parts: Facts of the images.

    Attributes:
        smallest: Smaller side in pixels, -1 for an image that cannot be read; has another -1 for row -1.
        largest: Larger side in pixels, likewise.
        content: First row with the same pixels; for an image that cannot be read, its own row.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts, self._size = parts, max(parts[0].stop, 1)
        columns = [part.read(["width", "height", "pixels", "hash"]) for part in parts]
        width, height = (np.concatenate([numbers(c[name], -1) for c in columns]) for name in ("width", "height"))
        self.smallest, self.largest = (np.append(f(width, height), np.int32(-1)) for f in (np.minimum, np.maximum))
        self.content = first_of_equal(np.concatenate([keys(c["pixels"]) for c in columns]))
        self.content[width < 0] = np.flatnonzero(width < 0)
        self.hashes = np.concatenate([numbers(c["hash"], 0).astype(np.uint64) for c in columns])
        self._hashed = np.concatenate([c["hash"].is_valid().to_numpy() for c in columns])

    def texts(self, rows: Rows, column: str) -> list[Any]:
        """Return a column of some images, such as ``path`` or ``problem``."""
        number, values = rows // self._size, np.full(len(rows), None, object)
        for part in np.unique(number):
            places = np.flatnonzero(number == part)
            found = self._parts[part].read([column])[column].take(rows[places] % self._size)
            values[places] = found.to_numpy()
        return list(values)

    def near(self, rows: Rows, max_distance: int) -> tuple[Rows, Rows]:
        """Return pairs of an image and one of ``rows`` that look the same.

        Their pixels differ. Their perceptual hashes differ in ``max_distance`` bits at most, and their colors little.
        Of images with the same pixels, the first one stands for all, see ``content``. Pairs are in the order of their
        distance.

        Args:
            max_distance: 0 to 7.
        """
        wanted = np.unique(self.content[rows])
        wanted = wanted[self._hashed[wanted]]
        if not len(wanted):
            return wanted, wanted
        every = np.flatnonzero(self._hashed & (self.content == np.arange(len(self))))
        colors = self._colors(wanted)
        found = [(np.empty(0, np.int64),) * 3]
        for start in range(0, len(every), _SEARCH_ROWS):
            images = every[start : start + _SEARCH_ROWS]
            query, place, distance = search(self.hashes[images], self.hashes[wanted], max_distance)
            query, place, distance = (values[images[query] != wanted[place]] for values in (query, place, distance))
            candidates = np.unique(images[query])
            own = self._colors(candidates)[np.searchsorted(candidates, images[query])]
            same = np.abs(own - colors[place]).max(1, initial=0) <= _COLOR_TOLERANCE
            found.append((images[query[same]], wanted[place[same]], distance[same]))
        images, others, distance = (np.concatenate(values) for values in zip(*found, strict=True))
        order = np.argsort(distance, kind="stable")
        return images[order], others[order]

    def _colors(self, rows: Rows) -> NDArray[np.int16]:
        """Return color signatures of images, one row each."""
        return np.frombuffer(b"".join(self.texts(rows, "colors")), np.uint8).reshape(-1, 3 * CELLS**2).astype(np.int16)

    def __len__(self) -> int:
        return len(self.content)
