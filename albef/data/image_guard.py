"""Guards against decompression bombs: small files that are expensive to decode."""

from __future__ import annotations

import contextlib
import io
import re

from PIL import Image
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH

from albef.data.images import ImageError, decode

MAX_SCANS = 100
"""Most scans of a JPEG, each a pass over all pixels; the limit of libtiff. Progressive files have about ten."""

# A marker that a length field follows: not stuffing (00), TEM (01), fill (ff) or a restart marker (d0-d7).
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd7])")
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"


def decode_untrusted(data: bytes, max_pixels: int, name: str) -> Image.Image:
    """Decode the bytes of one image to RGB; see `albef.data.images.decode`.

    Raises:
        ImageError: As raised by `decode`, and if decoding would cost more than an image of ``max_pixels``.
    """
    if data.startswith(b"\xff\xd8") and _scans(data) > MAX_SCANS:
        raise ImageError(f"{name}: a JPEG of more than {MAX_SCANS} scans, re-encode it with fewer")
    if data.startswith((b"II", b"MM")):
        width, height = _tile_size(data)
        if width * height > max_pixels:  # a tile is decoded as a whole, even where it exceeds the image
            raise ImageError(f"{name}: a TIFF of tiles of {width} x {height}, expected at most {max_pixels} pixels")
    return decode(data, max_pixels=max_pixels, name=name)


def _scans(data: bytes) -> int:
    """Count the scans of a JPEG, up to one above the limit.

    Data behind the end of the image, such as an appended video, is ignored.
    """
    count, at = 0, 2
    while count <= MAX_SCANS and (match := _MARKER.search(data, at)) and match[1] != _END_OF_IMAGE:
        count += match[1] == _START_OF_SCAN
        at = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    return count


def _tile_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a TIFF's tiles, zeros without tiles.

    A file that cannot be opened counts as untiled; `decode` reports its error.
    """
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        tags = image.getexif()
        return int(tags.get(TILEWIDTH, 0)), int(tags.get(TILELENGTH, 0))
    return 0, 0
