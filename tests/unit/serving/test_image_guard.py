"""Tests of the checks of untrusted image files."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from albef.data.images import ImageError
from albef.serving.image_guard import MAX_GAP, MAX_GIF_BLOCKS, MAX_PARTS, MAX_SCANS, read_header
from tests.errors import refuses
from tests.integration.serving import hostile
from tests.integration.serving.hostile import ODD, encoded, scene

VALID = {
    **{name: odd.file for name, odd in ODD.items() if name != "mpo"},
    "rgb bmp": lambda: encoded(scene(40, 30), "BMP"),
    "rgba bmp": lambda: encoded(scene(40, 30).convert("RGBA"), "BMP"),
    "lossy webp": lambda: encoded(scene(40, 30), "WEBP"),
    "lossless webp": lambda: encoded(scene(40, 30), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", VALID)
def test_sizes_are_those_that_pillow_reads(name: str) -> None:
    data = VALID[name]()
    header = read_header(data, 10**9, "upload")
    with Image.open(io.BytesIO(data)) as image:
        assert (header.kind, (header.width, header.height)) == (image.format, image.size)


def old_bmp() -> bytes:
    return b"BM" + struct.pack("<IIIIHHHH", 38, 0, 26, 12, 2, 2, 1, 24) + bytes(16)


def frame_beyond_the_screen() -> bytes:
    data = encoded(Image.new("P", (300, 200)), "GIF")
    return data[:6] + struct.pack("<HH", 10, 10) + data[10:]


@pytest.mark.parametrize(("file", "size"), [(old_bmp, (2, 2)), (frame_beyond_the_screen, (300, 200))])
def test_unusual_headers(file: Callable[[], bytes], size: tuple[int, int]) -> None:
    header = read_header(file(), 60_000, "upload")
    assert (header.width, header.height) == size
    with refuses(ImageError, "upload", *size):
        read_header(file(), size[0] * size[1] - 1, "upload")


def test_scans_count_as_cost() -> None:
    one, ten = (read_header(hostile.jpeg_of_scans(count), 10**6, "upload") for count in (1, 10))
    assert ten.cost == one.cost + 9 * one.pixels


@pytest.mark.parametrize(
    ("file", "names"),
    [
        (lambda n: hostile.jpeg_of_segments(MAX_PARTS - 20 + n, 0), ["JPEG", MAX_PARTS]),
        (lambda n: hostile.jpeg_of_junk(MAX_GAP - 20 + n), ["JPEG", MAX_GAP]),
        (lambda n: hostile.jpeg_of_scans(MAX_SCANS - 20 + n), ["JPEG", MAX_SCANS]),
        (lambda n: hostile.png_of_chunks(MAX_PARTS - 20 + n), ["PNG", MAX_PARTS]),
        (lambda n: hostile.gif_of_comments(MAX_GIF_BLOCKS - 20 + n), ["GIF", MAX_GIF_BLOCKS]),
    ],
)
def test_parts_are_limited(file: Callable[[int], bytes], names: list[object]) -> None:
    read_header(file(0), 10**6, "upload")
    with refuses(ImageError, "upload", *names):
        read_header(file(21), 10**6, "upload")


@given(st.sampled_from(sorted(VALID)), st.data())
def test_damaged_files_raise_nothing_else(name: str, data: st.DataObject) -> None:
    file = bytearray(VALID[name]()[:3_000])
    for _ in range(data.draw(st.integers(0, 4))):
        file[data.draw(st.integers(0, min(len(file), 60) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ImageError):
        header = read_header(bytes(file[: data.draw(st.integers(0, len(file)))]), 10**6, "upload")
        assert 0 < header.pixels <= 10**6
