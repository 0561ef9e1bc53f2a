"""Pictures from strangers: small files whose decoding would cost far more than their size in pixels says."""

from __future__ import annotations

import contextlib
import io
import re

from PIL import Image
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH

from albef.data.images import ImageError, decode

MAX_SCANS = 100
"""Of a JPEG, each a pass over all pixels; libtiff's own limit. Progressive files have about ten."""

# What follows 0xff: stuffing, fill and the markers without a length are passed over.
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd7])")
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"


def read(data: bytes, max_pixels: int, name: str) -> Image.Image:
    """Decode the bytes of one picture to RGB; see `albef.data.images.decode`.

    Raises:
        ImageError: As `decode` does, and if decoding would cost more than that of a picture of ``max_pixels``.
    """
    if data.startswith(b"\xff\xd8") and _scans(data) > MAX_SCANS:
        raise ImageError(f"{name}: a JPEG of more than {MAX_SCANS} scans")
    if data.startswith((b"II", b"MM")):
        width, height = _tile(data)
        if width * height > max_pixels:  # a tile is decoded as a whole, however little of it the picture shows
            raise ImageError(f"{name}: a TIFF of tiles of {width} x {height}, expected at most {max_pixels} pixels")
    return decode(data, max_pixels=max_pixels, name=name)


def _scans(data: bytes) -> int:
    """Scans of a JPEG, counted up to one more than allowed; what follows its end, such as a video, does not count."""
    count, at = 0, 2
    while count <= MAX_SCANS and (found := _MARKER.search(data, at)) and found[1] != _END_OF_IMAGE:
        count += found[1] == _START_OF_SCAN
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return count


def _tile(data: bytes) -> tuple[int, int]:
    """Width and height of a TIFF's tiles, 0 without; `decode` says what is wrong with a file that cannot be opened."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        tags = image.getexif()
        return int(tags.get(TILEWIDTH, 0)), int(tags.get(TILELENGTH, 0))
    return 0, 0
