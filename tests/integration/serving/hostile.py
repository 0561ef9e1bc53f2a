"""Hostile and unusual images and texts, with their expected results.

The limits are those of `tests.served.served_config`: 20 kB and 90,000 pixels per image.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

SIDE = 32
"""Image size of the tiny model; images of this size are not resized."""
UNKNOWN_FORMAT = ("'image'", "JPEG, PNG, WEBP, GIF, BMP")
UNREADABLE = ("'image'",)
TOO_MANY = ("'image'", 90000)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scene(width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Return an image that differs from blank images and from its own rotations."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1)
    blue = np.where((x < width / 3) & (y > height / 2), 230, 20)
    return Image.fromarray(np.stack([red, green, blue], axis=2).astype(np.uint8))


def small(image: Image.Image) -> Image.Image:
    """Return an image resized as for the model."""
    return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


# -- file formats written by hand


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *, depth: int = 8, color: int = 2, extra: bytes = b"") -> bytes:
    """Return a PNG file; ``data`` holds its lines, each after a zero byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def webp_canvas(width: int, height: int) -> bytes:
    """Return a WEBP animation of one tiny frame on a large canvas."""
    frame = encoded(Image.new("RGB", (8, 8), "red"), "WEBP", lossless=True)[12:]

    def part(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def three(*values: int) -> bytes:
        return b"".join(value.to_bytes(3, "little") for value in values)

    body = b"WEBP" + part(b"VP8X", b"\x02\0\0\0" + three(width - 1, height - 1)) + part(b"ANIM", bytes(6))
    body += part(b"ANMF", three(0, 0, 7, 7, 100) + b"\0" + frame)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_canvas(width: int, height: int) -> bytes:
    data = encoded(Image.new("P", (8, 8)), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def jpeg_of_size(width: int, height: int) -> bytes:
    data = encoded(scene(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def jpeg_of_segments(count: int, size: int) -> bytes:
    """Return a JPEG with further segments of ``size`` bytes before its frame."""
    data = encoded(scene(), "JPEG")
    return data[:2] + (b"\xff\xef" + struct.pack(">H", size + 2) + bytes(size)) * count + data[2:]


def jpeg_of_junk(size: int) -> bytes:
    """Return a JPEG with zeros between its segments."""
    data = encoded(scene(), "JPEG")
    return data[:20] + bytes(size) + data[20:]


def gif_of_comments(count: int) -> bytes:
    """Return a GIF with a comment of many blocks before its frame."""
    data = encoded(Image.new("P", (8, 8)), "GIF")
    at = data.index(b",")
    return data[:at] + b"!\xfe" + b"\1a" * count + b"\0" + data[at:]


def png_of_chunks(count: int) -> bytes:
    """Return a PNG with empty chunks that are not of an image."""
    return png(SIDE, SIDE, lines(scene()), extra=chunk(b"albF", b"") * count)


def run_length_bmp(width: int, height: int) -> bytes:
    """Return a run-length encoded BMP that ends after its header."""
    palette = bytes(1024)
    head = struct.pack(
        "<IIIIiiHHIIiiII", 54 + len(palette), 0, 54 + len(palette), 40, width, height, 1, 8, 1, *[0] * 3, 256, 0
    )
    return b"BM" + head + palette + b"\0\1"


def jpeg_of_scans(count: int, side: int = SIDE) -> bytes:
    """Return a progressive JPEG of one color whose last scan is repeated."""
    data = encoded(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def lines(image: Image.Image, depth: int = 8) -> bytes:
    """Return pixels in the format of the ``data`` of `png`; 16 bits are big-endian."""
    values = np.asarray(image).astype(">u2" if depth == 16 else "u1") * (257 if depth == 16 else 1)
    return b"".join(b"\0" + line.tobytes() for line in values.astype(">u2" if depth == 16 else "u1"))


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("image.png", encoded(scene()))
    return file.getvalue()


def cut(kind: str, share: float = 0.5, **options: Any) -> bytes:
    data = encoded(scene(64, 64), kind, **options)
    return data[: int(len(data) * share)]


# -- images

REFUSED: dict[str, tuple[Callable[[], bytes], tuple[Any, ...]]] = {
    "empty": (lambda: b"", UNREADABLE),
    "zeros": (lambda: bytes(5000), UNKNOWN_FORMAT),
    "text": (lambda: b"a red square", UNKNOWN_FORMAT),
    "svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', UNKNOWN_FORMAT),
    "html": (lambda: b"<!doctype html><img src=x>", UNKNOWN_FORMAT),
    "pdf": (lambda: encoded(scene(), "PDF"), UNKNOWN_FORMAT),
    "eps": (lambda: encoded(scene(), "EPS"), UNKNOWN_FORMAT),  # Ghostscript would run it
    "zip": (zipped, UNKNOWN_FORMAT),
    "ico": (lambda: encoded(scene(), "ICO"), UNKNOWN_FORMAT),
    "tga": (lambda: encoded(scene(), "TGA"), UNKNOWN_FORMAT),
    "tiff": (lambda: encoded(scene(), "TIFF"), UNKNOWN_FORMAT),
    "ppm": (lambda: encoded(scene(), "PPM"), UNKNOWN_FORMAT),
    "pgm of comments": (lambda: b"P5 " + b"#\n" * 9_000, UNKNOWN_FORMAT),
    "run-length bmp": (lambda: run_length_bmp(40_000_000, 1), ("'image'", "BMP", "PNG")),
    "cut jpeg": (lambda: cut("JPEG"), UNREADABLE),
    "cut progressive jpeg": (lambda: cut("JPEG", progressive=True), UNREADABLE),
    "cut gif": (lambda: cut("GIF", 0.9), UNREADABLE),
    "cut webp": (lambda: cut("WEBP"), UNREADABLE),
    "cut bmp": (lambda: cut("BMP"), UNREADABLE),
    "signature alone": (lambda: b"\x89PNG\r\n\x1a\n", UNREADABLE),
    "2 MB": (lambda: encoded(scene()) + bytes(2_000_000), ("'image'", 20000)),
    "png bomb": (lambda: png(50_000, 50_000, b""), TOO_MANY),
    "jpeg bomb": (lambda: jpeg_of_size(65_500, 65_500), TOO_MANY),
    "gif bomb": (lambda: gif_canvas(65_535, 65_535), TOO_MANY),
    "webp bomb": (lambda: webp_canvas(16_000, 16_000), TOO_MANY),
    "bmp bomb": (
        lambda: b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 50_000, 50_000, 1, 24, *[0] * 6),
        TOO_MANY,
    ),
    "just too large": (
        lambda: encoded(Image.new("1", (301, 300))),
        ("'image'", "301 x 300", 90000),
    ),
    "1 x 101": (lambda: encoded(Image.new("1", (1, 101))), ("'image'", "1 x 101", 100)),
    "800 x 7": (lambda: encoded(scene(800, 7)), ("'image'", "800 x 7", 100)),
    "gif of comments": (lambda: gif_of_comments(2_001), ("'image'", "GIF", 2000)),
    "gif of no frame": (lambda: encoded(Image.new("P", (8, 8)), "GIF")[:13] + b";", UNREADABLE),
    "webp of no frame": (lambda: b"RIFF\x10\0\0\0WEBPEXIF\4\0\0\0abcd", UNREADABLE),
    "1 x 100000": (lambda: encoded(Image.new("1", (1, 100_000))), ("'image'", "1 x 100000")),
    "jpeg of 200 scans": (lambda: jpeg_of_scans(200), ("'image'", "JPEG", 100)),
    "text bomb in a png": (
        lambda: png(4, 4, bytes(52), extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10_000_000), 9))),
        UNREADABLE,
    ),
    "png of no width": (lambda: png(0, 8, bytes(8)), UNREADABLE),
    "jpeg of no height": (lambda: jpeg_of_size(32, 0), UNREADABLE),
}
"""Rejected files: the file, and what the error message names."""


@dataclass(frozen=True)
class Odd:
    """An unusual but valid image file.

    Attributes:
        file: Returns its content.
        same: Returns a plain image with the same answer, of the size of the model.
        lossy: True if the answers are only similar.
    """

    file: Callable[[], bytes]
    same: Callable[[], Image.Image] = scene
    lossy: bool = False


def gray() -> Image.Image:
    return scene().convert("L")


def sixteen() -> Image.Image:
    return Image.fromarray(np.asarray(gray()).astype(np.uint16) * 257)


def black_and_white() -> Image.Image:
    return scene().convert("1")


def see_through(image: Image.Image, mode: str) -> Image.Image:
    """Return an image that is transparent on the left and partly transparent at the top right."""
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    alpha[:16, 16:], alpha[:, :16] = 102, 0
    layer = image.convert(mode)
    layer.putalpha(Image.fromarray(alpha))
    return layer


def on_white(image: Image.Image) -> Image.Image:
    values = np.asarray(image.convert("RGBA")).astype(float)
    alpha = values[..., 3:] / 255
    return Image.fromarray((values[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8))


def palette() -> Image.Image:
    return scene().quantize(16)


def without_color(index: int) -> Image.Image:
    """Return `palette` on white, with one transparent color."""
    image = np.asarray(palette().convert("RGB")).copy()
    image[np.asarray(palette()) == index] = 255
    return Image.fromarray(image)


def frames() -> list[Image.Image]:
    return [Image.new("RGB", (SIDE, SIDE), color) for color in ("black", "white", "green")]


def animated(kind: str, image: Image.Image, **options: Any) -> bytes:
    return encoded(image, kind, save_all=True, append_images=frames(), **options)


def turned(orientation: int) -> bytes:
    image = scene(48, 40)
    exif = image.getexif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", exif=exif, quality=90)


def jpeg(**options: Any) -> Image.Image:
    return Image.open(io.BytesIO(encoded(scene(48, 40), "JPEG", quality=90, **options)))


ODD: dict[str, Odd] = {
    "1 x 1": Odd(lambda: encoded(Image.new("RGB", (1, 1), "orange")), lambda: Image.new("RGB", (SIDE, SIDE), "orange")),
    "8 x 800": Odd(lambda: encoded(scene(8, 800)), lambda: small(scene(8, 800))),
    "800 x 8": Odd(lambda: encoded(scene(800, 8)), lambda: small(scene(800, 8))),
    "exactly as large as allowed": Odd(lambda: encoded(scene(300, 300), "PNG"), lambda: small(scene(300, 300))),
    "16-bit gray png": Odd(lambda: encoded(sixteen()), gray),
    "16-bit color png": Odd(lambda: png(SIDE, SIDE, lines(scene(), 16), depth=16)),
    "gray png": Odd(lambda: encoded(gray()), gray),
    "1-bit png": Odd(lambda: encoded(black_and_white()), black_and_white),
    "palette png": Odd(lambda: encoded(palette()), lambda: palette().convert("RGB")),
    "palette bmp": Odd(lambda: encoded(palette(), "BMP"), lambda: palette().convert("RGB")),
    "palette png with a transparent color": Odd(lambda: encoded(palette(), transparency=3), lambda: without_color(3)),
    "gif with a transparent color": Odd(lambda: encoded(palette(), "GIF", transparency=3), lambda: without_color(3)),
    "rgba png": Odd(lambda: encoded(see_through(scene(), "RGB")), lambda: on_white(see_through(scene(), "RGB"))),
    "rgba webp": Odd(
        lambda: encoded(see_through(scene(), "RGB"), "WEBP", lossless=True, exact=True),
        lambda: on_white(see_through(scene(), "RGB")),
    ),
    "la png": Odd(lambda: encoded(see_through(gray(), "L")), lambda: on_white(see_through(gray(), "L"))),
    "cmyk jpeg": Odd(lambda: encoded(scene().convert("CMYK"), "JPEG", quality=100, subsampling=0), lossy=True),
    "animated gif": Odd(lambda: animated("GIF", palette()), lambda: palette().convert("RGB")),
    "animated webp": Odd(lambda: animated("WEBP", scene(), lossless=True)),
    "animated png": Odd(lambda: animated("PNG", scene())),
    "gif of 1000 frames": Odd(
        lambda: encoded(
            palette(), "GIF", save_all=True, append_images=[Image.new("P", (1, 1), i % 2) for i in range(999)]
        ),
        lambda: palette().convert("RGB"),
    ),
    "mpo": Odd(
        lambda: encoded(jpeg(), "MPO", save_all=True, append_images=[jpeg()], quality=100, subsampling=0),
        lambda: small(jpeg()),
        lossy=True,
    ),
    "progressive jpeg": Odd(
        lambda: encoded(scene(48, 40), "JPEG", quality=90, progressive=True), lambda: small(jpeg()), lossy=False
    ),
    "jpeg before a video": Odd(  # a phone format; the bytes of the video look like scans
        lambda: encoded(scene(48, 40), "JPEG", quality=90) + b"\xff\xda\0\2" * 500, lambda: small(jpeg())
    ),
    "jpeg upside down": Odd(lambda: turned(3), lambda: small(jpeg().transpose(Image.Transpose.ROTATE_180))),
    "jpeg on its side": Odd(lambda: turned(6), lambda: small(jpeg().transpose(Image.Transpose.ROTATE_270))),
    "jpeg mirrored": Odd(lambda: turned(2), lambda: small(jpeg().transpose(Image.Transpose.FLIP_LEFT_RIGHT))),
    "jpeg of senseless orientation": Odd(lambda: turned(77), lambda: small(jpeg())),
}
"""Unusual files that are accepted."""

# -- texts

REFUSED_TEXTS: dict[str, tuple[bytes, tuple[Any, ...]]] = {
    "empty": (b"", ()),
    "white space": (b" \t\r\n\xc2\xa0", ()),
    "punctuation": (b"?!... ,;:#()", ()),
    "nul": (b"\0", ()),
    "control characters": (b"\x01\x02 \x7f \x1b", ()),
    "no width": ("\u200b\u200d\ufeff \u202e".encode(), ()),
    "utf-16": ("red above blue".encode("utf-16"), ("UTF-8",)),
    "latin-1": (b"caf\xe9", ("UTF-8",)),
    "half a surrogate pair": (b"\xed\xa0\x80", ("UTF-8",)),
    "10000 words": (b"red " * 10_000, (40000, 10000)),
}
"""Rejected texts, and what the error message names besides the input."""

ODD_TEXTS: dict[str, tuple[str, str]] = {
    "nul inside": ("red\0 above blue", "red above blue"),
    "control characters inside": ("\x1bred above\x7f blue\x01", "red above blue"),
    "byte order mark": ("\ufeffred above blue", "red above blue"),
    "turned direction": ("\u202ered above blue", "red above blue"),
    "white space": ("\tRED\u00a0above\r\nblue ", "red above blue"),
    "5000 words": ("red " * 2500, "red " * 30),
    "one word of 10000 letters": ("x" * 10_000, "\U0001f408" * 9),  # unknown words, both
    "emoji": ("\U0001f408", "\u732b"),
}
"""Unusual texts, each with a plain one that has the same answer."""
