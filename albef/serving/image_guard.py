"""Checks of untrusted image files by their structure, before any pixel is decoded.

A small file may be expensive to decode: it may claim many pixels, pass over them many times, or consist of millions of
empty parts. The checks read the structure alone, with a bounded number of steps.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from albef.data.images import ImageError
from albef.serving.protocol import Settings

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Accepted formats, by Pillow's names; BMP uncompressed only. Others are rare, and slow or complex to decode."""

MAX_ASPECT = 100
"""Largest ratio of the sides. Resizing takes memory in proportion to the longer side."""
MAX_PARTS = 10_000
"""Most segments of a JPEG or chunks of a PNG; a PNG of 20 MB in chunks of 8 kB has 2,500."""
MAX_GIF_BLOCKS = 2_000
"""Most blocks before the first frame of a GIF; Pillow joins comments in quadratic time."""
MAX_SCANS = 100
"""Most scans of a JPEG, each a pass over all pixels; the limit of libtiff. Progressive files have about ten."""
MAX_GAP = 65_536
"""Most bytes between the segments of a JPEG's header, which Pillow reads one by one."""

_PASSES = 4
"""Cost of a pixel in formats other than JPEG, relative to one scan of a JPEG."""
# A marker that a length field follows: not stuffing (00), TEM (01), fill (ff) or a restart marker (d0-d7).
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd7])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class Header:
    """Format and claimed size of an image file.

    Args:
        kind: One of `FORMATS`.
        passes: Passes over all pixels, weighted by format.
    """

    kind: str
    width: int
    height: int
    passes: int = _PASSES

    @property
    def pixels(self) -> int:
        """Claimed number of pixels."""
        return self.width * self.height

    @property
    def cost(self) -> int:
        """Estimated cost of decoding, in pixels of a JPEG with one scan."""
        return self.pixels * self.passes


def read_headers(files: Mapping[bytes, str], limits: Settings) -> list[Header]:
    """Check the distinct images of a request.

    Args:
        files: Content of each file, with the name of its input.

    Raises:
        ImageError: If a file or all images together are too large, or as `read_header`.
    """
    headers = []
    for file, name in files.items():
        if len(file) > limits.max_image_bytes:
            raise ImageError(f"'{name}' has {len(file)} bytes, expected at most {limits.max_image_bytes}")
        headers.append(read_header(file, limits.max_image_pixels, f"'{name}'"))
    pixels = sum(header.pixels for header in headers)
    if pixels > limits.max_request_pixels:
        text = f"{pixels} pixels in {len(files)} images, expected at most {limits.max_request_pixels}"
        raise ImageError(f"'{next(iter(files.values()))}': {text} in a request; send fewer images at a time")
    return headers


def read_header(data: bytes, max_pixels: int, name: str) -> Header:
    """Read and check the structure of an image file.

    Raises:
        ImageError: If the format is not accepted, or the file is damaged or too expensive to decode.
    """
    expected = f"expected one of {', '.join(FORMATS)}"
    if not data:
        raise ImageError(f"{name}: empty, {expected}")
    parse = _parser(data)
    if parse is None:
        raise ImageError(f"{name}: not a readable image, {expected}")
    try:
        header = parse(data)
    except (struct.error, IndexError) as error:
        raise ImageError(f"{name}: not a readable image, the file ends in its header") from error
    except ValueError as error:
        raise ImageError(f"{name}: {error}") from error
    width, height = header.width, header.height
    if not width or not height:
        raise ImageError(f"{name}: {width} x {height} pixels, expected at least 1 x 1")
    if header.pixels > max_pixels:
        raise ImageError(f"{name}: {width} x {height} pixels, expected at most {max_pixels} in total")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(
            f"{name}: {width} x {height} pixels, expected sides in a ratio of at most {MAX_ASPECT}; crop it"
        )
    return header


def _parser(data: bytes) -> Callable[[bytes], Header] | None:
    """Return the parser of a file's format, None if it is not accepted."""
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _gif
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp
    return _bmp if data.startswith(b"BM") else None


def _jpeg(data: bytes) -> Header:
    """Read the segments up to the end of the image.

    Data behind it, such as an appended video, is ignored.
    """
    size, parts, scans, gap, at = None, 0, 0, 0, 2
    while (match := _MARKER.search(data, at)) and match[1][0] != _END_OF_IMAGE:
        marker, parts = match[1][0], parts + 1
        gap += 0 if scans else match.start() - at
        scans += marker == _START_OF_SCAN
        if parts > MAX_PARTS:
            raise ValueError(f"a JPEG of more than {MAX_PARTS} segments, re-encode it")
        if scans > MAX_SCANS:
            raise ValueError(f"a JPEG of more than {MAX_SCANS} scans, re-encode it with fewer")
        if gap > MAX_GAP:
            raise ValueError(f"a JPEG with more than {MAX_GAP} bytes between its segments, re-encode it")
        if marker in _START_OF_FRAME:
            size = struct.unpack_from(">HH", data, match.end() + 3)
        at = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    if size is None:
        raise ValueError("not a readable image, a JPEG without a frame")
    return Header("JPEG", size[1], size[0], max(scans, 1))


def _png(data: bytes) -> Header:
    """Read the size and count the chunks."""
    width, height = struct.unpack_from(">II", data, 16)
    at = 8
    for _ in range(MAX_PARTS):
        if at + 8 > len(data) or data[at + 4 : at + 8] == b"IEND":
            return Header("PNG", width, height)
        at += int.from_bytes(data[at : at + 4], "big") + 12
    raise ValueError(f"a PNG of more than {MAX_PARTS} chunks, re-encode it")


def _gif(data: bytes) -> Header:
    """Read the blocks up to the first frame, which may exceed the screen."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (6 << (flags & 7) if flags & 0x80 else 0)
    extension = False
    for _ in range(MAX_GIF_BLOCKS):
        size = data[at]
        if extension:
            extension, at = size > 0, at + size + 1
        elif size == 0x21:
            extension, at = True, at + 2
        elif size == 0x2C:
            left, top, columns, rows = struct.unpack_from("<HHHH", data, at + 1)
            return Header("GIF", max(width, left + columns), max(height, top + rows))
        else:
            raise ValueError("not a readable image, a GIF without a frame")
    raise ValueError(f"a GIF of more than {MAX_GIF_BLOCKS} blocks before its first frame, re-encode it")


def _webp(data: bytes) -> Header:
    """Read the size from the first chunk."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ValueError("not a readable image, a WEBP without an image")
    return Header("WEBP", width, height)


def _bmp(data: bytes) -> Header:
    """Read the size and refuse run-length encoding.

    It holds any number of pixels in a few bytes.
    """
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        return Header("BMP", *struct.unpack_from("<HH", data, 18))
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression not in (0, 3):  # raw pixels, with or without bit masks
        raise ValueError("a compressed BMP, convert it to PNG")
    return Header("BMP", abs(width), abs(height))
