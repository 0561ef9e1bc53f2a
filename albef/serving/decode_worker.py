"""Process that decodes images of requests, started by `albef.serving.decoding`.

It reads requests from a socket, its standard input, until the parent closes it or dies. The limits of time and memory
are enforced by the kernel, so that they hold within a decoder: the process dies of them.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
import struct
import sys
import warnings
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from albef.data.images import ImageError, opened, to_bytes, to_rgb
from albef.serving.sample import image_stats

REQUEST = struct.Struct(">IIIdII")
"""Bytes of the file, most pixels, 1 if statistics are wanted, seconds, bytes of the format, and of the name."""
REPLY = struct.Struct(">II")
"""Bytes of the JSON that follows, and of the pixels behind it; no pixels mean an error."""

_BYTES_PER_PIXEL = 32
"""Memory of a decoded image with its conversions: up to six copies of four bytes."""
_MEMORY_BYTES = 256 * 2**20
"""Memory for file, decoder and resizing."""
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 2**20  # of decompressed texts


def _limit(max_pixels: int) -> None:
    """Limit what the process may use, relative to what it uses now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    size = used + _BYTES_PER_PIXEL * max_pixels + _MEMORY_BYTES
    for limit, value in ((resource.RLIMIT_AS, size), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))


@dataclass(frozen=True)
class Decoded:
    """Decoded image.

    Args:
        size: Width and height, upright.
        stats: Result of `albef.serving.sample.image_stats`, if wanted.
        pixels: Result of `albef.data.images.to_bytes`.
    """

    size: tuple[int, int]
    stats: dict[str, float | None] | None
    pixels: NDArray[np.uint8]


def decode(data: bytes, kind: str, name: str, max_pixels: int, image_size: int, *, stats: bool) -> Decoded:
    """Decode and resize a file of one format.

    Raises:
        ImageError: If it cannot be decoded.
    """
    try:
        with opened(data, max_pixels=max_pixels, name=name, formats=(kind,)) as image:
            image.load()
            rgb = to_rgb(image, name)
        return Decoded(rgb.size, image_stats(rgb, len(data)) if stats else None, to_bytes(rgb, image_size))
    except (ImageError, MemoryError) as error:
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            raise ImageError(f"{name}: takes too much memory to decode, shrink it") from error
        raise


def run(requests: BinaryIO, replies: BinaryIO, image_size: int) -> None:
    """Answer requests until they end."""
    while head := requests.read(REQUEST.size):
        size, max_pixels, stats, seconds, kind_size, name_size = REQUEST.unpack(head)
        kind, name = requests.read(kind_size).decode(), requests.read(name_size).decode()
        data = requests.read(size)
        if len(data) < size:
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)  # seconds of CPU; SIGPROF ends the process
        facts: dict[str, object]
        try:
            decoded = decode(data, kind, name, max_pixels, image_size, stats=bool(stats))
            pixels, facts = decoded.pixels.tobytes(), {"size": decoded.size, "stats": decoded.stats}
        except ImageError as error:
            pixels, facts = b"", {"error": str(error)}
        signal.setitimer(signal.ITIMER_PROF, 0)
        text = json.dumps(facts).encode()
        replies.write(REPLY.pack(len(text), len(pixels)) + text + pixels)
        replies.flush()


def main(image_size: str, max_pixels: str) -> None:
    """Prepare the process and answer requests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal; the end of the parent ends this process
    warnings.simplefilter("ignore")  # of Pillow, about single files
    Image.init()  # decoders are imported before memory is limited
    _limit(int(max_pixels))
    with (
        socket.socket(fileno=sys.stdin.fileno()) as connection,
        connection.makefile("rb") as requests,
        connection.makefile("wb") as replies,
    ):
        run(requests, replies, int(image_size))
