"""Safe image decoding and preprocessing.

The module needs NumPy and Pillow only: serving uses it without torch.
"""

from __future__ import annotations

import errno
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# CLIP statistics, as in the official code.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# The limit of Pillow; servers pass a lower one.
MAX_PIXELS = 89_478_485

# Formats with a memory-safe decoder in Pillow. EPS would start Ghostscript, PDF is not an image format.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
"""Endings of the names of files in these formats, in lower case."""


@dataclass(frozen=True, order=True)
class StoredImage:
    """Encoded image of a data set.

    Args:
        path: Path in the lists.
        name: Name in error messages.
        read: Returns the bytes, or raises `ImageError`.
    """

    path: str
    name: str = field(compare=False)
    read: Callable[[], bytes] = field(compare=False, repr=False)


ImageSource = str | Path | bytes | StoredImage | Image.Image | NDArray[Any]
"""Path or content of an image file, an image, or an array (height, width) or (height, width, channels) of bytes."""

_PAUSES = (0.1, 0.4, 1.6)
"""Seconds before each retry of a read that failed."""

_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors of the file system that a retry does not change."""

_MEAN = np.array(MEAN, dtype=np.float32)[:, None, None]
_STD = np.array(STD, dtype=np.float32)[:, None, None]


class ImageError(ValueError):
    """Bytes that are not an image, or one too large to decode."""


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, name: str = "image") -> Image.Image:
    """Decode the bytes of one image to RGB.

    Animations are reduced to their first frame, transparency is composited on white, 16-bit gray is scaled to 8 bits
    and the EXIF orientation is applied.

    Args:
        max_pixels: Largest width * height; checked in the header, before any pixel is decoded.
        name: Name of the image in error messages, usually its path.

    Raises:
        ImageError: If the bytes are truncated, are in no known format or hold too many pixels.
    """
    with opened(data, max_pixels=max_pixels, name=name) as image:
        image.load()
        return to_rgb(image, name)


@contextmanager
def opened(
    data: bytes, *, max_pixels: int = MAX_PIXELS, name: str = "image", formats: tuple[str, ...] = _FORMATS
) -> Iterator[Image.Image]:
    """Open the bytes of one image by its header; pixels are decoded within the context.

    Args:
        max_pixels: Largest width * height.
        name: Name of the image in error messages, usually its path.

    Raises:
        ImageError: If the header is in no known format or claims too many pixels, and for any other exception within
            the context.
    """
    if not data:
        raise ImageError(f"{name}: empty, expected the bytes of an image ({', '.join(formats)})")
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(f"{name}: {width} x {height} pixels, expected at most {max_pixels} in total")
            yield image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: far too many pixels, expected at most {max_pixels}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a readable image, expected one of {', '.join(formats)}") from error
    except Exception as error:  # decoders raise arbitrary exceptions on malformed data
        raise ImageError(f"{name}: not a readable image ({type(error).__name__}: {error})") from error


def read_bytes(path: str | Path) -> bytes:
    """Read a file; errors of the device or the network are retried for about two seconds.

    Raises:
        ImageError: If the file is missing or cannot be read; the message names it.
    """
    pauses = list(_PAUSES)
    while True:
        try:
            return Path(path).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: an invalid path, such as one with a null byte
            retried = isinstance(error, OSError) and not isinstance(error, _FINAL) and error.errno != errno.ENAMETOOLONG
            if not retried or not pauses:
                raise ImageError(f"{path!s}: cannot read the image ({error})") from error
        time.sleep(pauses.pop(0))


def open_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read and decode a file; see `decode`.

    Raises:
        ImageError: If the file is missing or is not an image; the message names it.
    """
    return decode(read_bytes(path), max_pixels=max_pixels, name=str(path))


def load_image(source: ImageSource, name: str = "image") -> Image.Image:
    """Return an image as RGB, prepared as by `decode` whatever its source.

    Args:
        name: Name in error messages of an image without a path.

    Raises:
        ImageError: If it cannot be read, or an array is not one of bytes with 1, 3 or 4 channels.
    """
    if isinstance(source, str | Path):
        return open_image(source)
    if isinstance(source, bytes):
        return decode(source, name=name)
    if isinstance(source, StoredImage):
        return decode(source.read(), name=source.name)
    if isinstance(source, Image.Image):
        try:
            return to_rgb(source, name)
        except OSError as error:  # pixels of an opened file are read here
            raise ImageError(f"{name}: not a readable image ({error})") from error
    if not isinstance(source, np.ndarray):
        raise ImageError(f"{name}: is of type {type(source).__name__}, expected a path, bytes, PIL image or array")
    if source.dtype != np.uint8 or not (source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (1, 3, 4))):
        raise ImageError(
            f"{name}: array of type {source.dtype} and shape {source.shape}, expected uint8 of (height, width) or "
            "(height, width, 1, 3 or 4)"
        )
    return to_rgb(Image.fromarray(source[..., 0] if source.shape[2:] == (1,) else source), name)


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Apply the EXIF orientation and convert to RGB.

    Args:
        name: Name of the image in error messages.

    Raises:
        ImageError: If the pixel values are neither of 8 nor of 16 bits.
    """
    return as_rgb(_upright(image), name)


def _upright(image: Image.Image) -> Image.Image:
    """Return a copy with the EXIF orientation applied.

    Images with invalid EXIF data are common and only copied.
    """
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image.copy()


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert to RGB as stored, without the EXIF orientation.

    An RGB image is returned itself.

    Args:
        name: Name of the image in error messages.

    Raises:
        ImageError: If the pixel values are neither of 8 nor of 16 bits.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"{name}: 32-bit pixel values, expected 8 or 16 bits per channel")
        # convert() would clip 16-bit values to white.
        return Image.fromarray((values.astype(np.uint32) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point pixel values, expected 8 or 16 bits per channel")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        canvas.alpha_composite(layer)
        return canvas.convert("RGB")
    return image.convert("RGB")


def to_bytes(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Resize to a square (bicubic, as in the official evaluation).

    Args:
        image: An image, converted to RGB if needed.
        size: Pixels per side.

    Returns:
        Shape (3, size, size).
    """
    if image.mode != "RGB":
        image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def to_pixels(image: Image.Image, size: int) -> NDArray[np.float32]:
    """Resize as `to_bytes` does and normalize; shape (3, size, size)."""
    return normalize(to_bytes(image, size))


def normalize(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert the result of `to_bytes` to inputs of the image encoder."""
    return np.asarray((pixels.astype(np.float32) / np.float32(255) - _MEAN) / _STD)
