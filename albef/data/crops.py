"""Decoding of a random crop at its final size, for training.

The crop is drawn from the size in the header, so that a JPEG is decoded at a reduced scale where the crop has pixels to
spare. Evaluation and serving decode whole images (`albef.data.images`).
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import cast

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from torch.nn.functional import interpolate

from albef.data.images import as_rgb, opened

RATIOS = (3 / 4, 4 / 3)
"""Smallest and largest aspect ratio of a random crop."""

# EXIF orientations whose rows or columns are stored in reverse; those from 5 on are transposed as well.
_MIRRORED, _FLIPPED = (2, 3, 7, 8), (3, 4, 6, 7)

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""


def random_box(width: int, height: int, low: float, rng: np.random.Generator) -> Box:
    """Draw a crop as torchvision's ``RandomResizedCrop`` does.

    The area fraction is in [low, 1], the aspect ratio in `RATIOS`. After ten draws that exceed the image, the crop is
    the largest central one whose aspect ratio is in `RATIOS`. ``low`` 1 returns the whole image and draws nothing.
    """
    if low >= 1:
        return 0, 0, width, height
    narrow, wide = (math.log(ratio) for ratio in RATIOS)
    for _ in range(10):
        area = width * height * (low + (1 - low) * rng.random())
        ratio = math.exp(narrow + (wide - narrow) * rng.random())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int((width - w + 1) * rng.random()), int((height - h + 1) * rng.random())
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIOS[1])), min(height, round(width / RATIOS[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def decode_crop(data: bytes, name: str, size: int, low: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Decode a random crop of an image and resize it to a square (bicubic).

    Orientation, transparency and 16-bit gray are handled as by `albef.data.images.decode`. A JPEG is decoded at the
    smallest scale (1, 1/2, 1/4 or 1/8) at which the crop has at least ``size`` pixels per side; its box is rounded to
    pixels of that scale.

    Args:
        data: The encoded image.
        name: Name of the image in error messages, usually its path.
        size: Pixels per side.
        low: Smallest area fraction; see `random_box`.

    Returns:
        Shape (3, size, size).

    Raises:
        ImageError: If the image cannot be read or is too large.
    """
    with opened(data, name=name) as image:
        jpeg = isinstance(image, JpegImageFile)
        if not jpeg:
            image.load()  # a PNG may have its orientation behind its pixels
        turn = _orientation(image)
        width, height = image.size[::-1] if turn >= 5 else image.size
        box = _stored(random_box(width, height, low, rng), turn, *image.size)
        side = min(box[2] - box[0], box[3] - box[1])
        scale = next((scale for scale in (8, 4, 2) if jpeg and side >= scale * size), 1)
        left, top, right, bottom = ((edge + scale // 2) // scale for edge in box)
        crop = _decoded(image, data, name, scale)[top:bottom, left:right]
    return np.ascontiguousarray(_turned(_resized(crop, size), turn))


def _decoded(image: Image.Image, data: bytes, name: str, scale: int) -> NDArray[np.uint8]:
    """Return the pixels ``(height, width, 3)`` of an opened image at 1 / ``scale``, rounded up."""
    if isinstance(image, JpegImageFile):
        size = -(-image.width // scale), -(-image.height // scale)
        if image.mode == "RGB":
            # Not to smooth chroma of a lower resolution saves a tenth of the time. Files with the slightest damage are
            # left to Pillow, which decides about them as in evaluation.
            with suppress(ValueError):
                options = {"fastupsample": True, "min_width": size[0], "min_height": size[1]}
                return np.asarray(simplejpeg.decode_jpeg(data, **options))
        image.draft(None, (image.width // scale, image.height // scale))
    return np.array(as_rgb(image, name))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 if it is missing or invalid."""
    if isinstance(image, JpegImageFile) and not image.info.keys() & {"exif", "xmp"}:
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # invalid EXIF data are common
        return 1
    return value if value in range(1, 9) else 1


def _stored(box: Box, orientation: int, width: int, height: int) -> Box:
    """Return where a box of the upright image is in the stored one."""
    left, top, right, bottom = box
    if orientation >= 5:
        left, top, right, bottom = top, left, bottom, right
    if orientation in _MIRRORED:
        left, right = width - right, width - left
    if orientation in _FLIPPED:
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def _turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return a view of stored pixels ``(3, size, size)`` that is upright."""
    if orientation in _MIRRORED:
        pixels = pixels[:, :, ::-1]
    if orientation in _FLIPPED:
        pixels = pixels[:, ::-1]
    return pixels.transpose(0, 2, 1) if orientation >= 5 else pixels


def _resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize ``(height, width, 3)`` to ``(3, size, size)``.

    torch's kernel is that of Pillow, one level apart at most, but uses vector instructions on bytes.
    """
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    if pixels.shape[:2] != (size, size):
        image = interpolate(image[None], (size, size), mode="bicubic", antialias=True, align_corners=False)[0]
    return cast(NDArray[np.uint8], image.numpy())
