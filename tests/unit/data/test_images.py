"""Tests of image decoding: accepted formats, orientation and refused files."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from albef.data import images
from albef.data.images import MAX_PIXELS, MEAN, STD, ImageError, decode, open_image, read_bytes, to_pixels
from tests.errors import refuses

# Pillow complains of broken notes and claimed sizes on its own; the result is what counts here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient() -> Image.Image:
    ramp = np.linspace(0, 255, 40 * 30 * 3).reshape(30, 40, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be large and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG", "WEBP"])
def test_reads_the_usual_formats(kind: str) -> None:
    image = decode(encoded(gradient(), kind))
    assert (image.mode, image.size) == ("RGB", (40, 30))
    error = np.abs(np.asarray(image, float) - np.asarray(gradient(), float)).mean()
    assert error < 8


def test_refuses_formats_that_start_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "drawing.eps"
    path.write_bytes(encoded(gradient(), "EPS"))
    with refuses(ImageError, "drawing.eps", "PNG"):
        open_image(path)


def test_scales_sixteen_bits() -> None:
    values = np.array([[0, 257 * 100 + 7, 65535]], dtype=np.uint16)
    assert np.asarray(decode(encoded(Image.fromarray(values))))[0, :, 0].tolist() == [0, 100, 255]


def test_reads_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data).getpixel((4, 4)) == (255, 0, 0)


def test_transparency_shows_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0] * 256)
    assert decode(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    assert decode(encoded(palette)).getpixel((0, 0)) == (255, 0, 0)


def test_reads_ink_on_paper() -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = decode(encoded(cyan, "JPEG", quality=95)).getpixel((4, 4))
    assert red < 40
    assert min(green, blue) > 200


def test_turns_images_as_the_camera_noted() -> None:
    image = Image.new("RGB", (20, 10), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    assert decode(encoded(image, "JPEG", exif=exif)).size == (10, 20)
    assert decode(encoded(image, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")).size == (20, 10)


def test_refuses_a_bomb_by_its_header() -> None:
    with refuses(ImageError, "bomb", MAX_PIXELS):
        decode(png_header(30000, 30000), name="bomb")
    with refuses(ImageError, "bomb", "300 x 200", 1000):
        decode(png_header(300, 200), max_pixels=1000, name="bomb")


def test_refuses_what_has_no_image() -> None:
    data = encoded(gradient(), "JPEG")
    for bad in (b"", b"hello", data[: len(data) // 2], png_header(30, 20)):
        with refuses(ImageError, "upload"):
            decode(bad, name="upload")
    with refuses(ImageError, "floating-point"):
        decode(encoded(Image.new("F", (4, 4)), "TIFF"))
    for path in ("missing.png", "null\0byte.png", "half\ud83d.png", "."):
        with refuses(ImageError, path):
            open_image(path)


def test_reading_is_retried_until_the_device_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory at address 0, where no page is, gives an I/O error."""
    path, pauses = tmp_path / "image", []
    path.symlink_to("/proc/self/mem")

    def wait(seconds: float, recovers: bool) -> None:
        pauses.append(seconds)
        if recovers and len(pauses) == 2:
            path.unlink()
            path.write_bytes(b"data")

    monkeypatch.setattr(images.time, "sleep", lambda seconds: wait(seconds, recovers=False))
    with refuses(ImageError, path, "Input/output error"):
        read_bytes(path)
    assert pauses == sorted(pauses)
    assert len(pauses) == 3
    assert sum(pauses) < 5
    pauses.clear()
    monkeypatch.setattr(images.time, "sleep", lambda seconds: wait(seconds, recovers=True))
    assert read_bytes(path) == b"data"
    assert len(pauses) == 2


@pytest.mark.parametrize("name", ["missing", ".", "file/below", "null\0byte", "n" * 300])
def test_what_a_retry_does_not_change_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(images.time, "sleep", None)
    with refuses(ImageError, tmp_path / name):
        read_bytes(tmp_path / name)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]), st.data())
def test_broken_bytes_never_raise_anything_else(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(gradient(), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    with contextlib.suppress(ImageError):
        image = decode(bytes(content), max_pixels=10_000, name="fuzz")
        assert image.mode == "RGB"
        assert image.width * image.height <= 10_000


def test_pixels_are_normalized_channels_first() -> None:
    pixels = to_pixels(Image.new("RGB", (10, 20), (255, 0, 51)), 8)
    assert (pixels.shape, pixels.dtype) == ((3, 8, 8), np.float32)
    assert pixels.flags.c_contiguous
    expected = [(v - m) / s for v, m, s in zip((1.0, 0.0, 0.2), MEAN, STD, strict=True)]
    assert np.allclose(pixels.mean((1, 2)), expected, atol=1e-6)


def test_pixels_match_the_transforms_of_the_official_code() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    official = transforms.Compose(
        [
            transforms.Resize((24, 24), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    assert np.allclose(to_pixels(gradient(), 24), official(gradient()).numpy(), atol=1e-6)


def test_needs_numpy_and_pillow_alone() -> None:
    # Serving copies this file next to a model, where neither the package nor torch is.
    script = (
        "import sys, runpy; sys.modules.update(torch=None, albef=None, tokenizers=None);"
        "runpy.run_path(sys.argv[1])['to_pixels']"
    )
    path = sys.modules[decode.__module__].__file__
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
