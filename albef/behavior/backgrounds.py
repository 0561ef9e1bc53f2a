"""Images on a background of other colors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_TINT = (1.0, 0.85, 0.7)  # of red, green and blue: slightly more orange
_TOLERANCE = 16  # levels that a color may differ, as after JPEG compression
_MAX_OTHER = 0.2  # share of the border with other colors, as of things that touch it


def tinted(image: Image.Image) -> Image.Image | None:
    """Tint the background of an image if it is plain or a pattern of two colors.

    The background has the two most frequent colors of the border. A thing's pixels of these colors change, too.

    Args:
        image: RGB image.

    Returns:
        The changed image; None if the border has other colors as well, as in most photos.
    """
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background, rest = np.zeros(pixels.shape[:2], dtype=bool), border
    for _ in range(2):
        if len(rest):
            color = _most_frequent(rest)
            background |= _near(pixels, color)
            rest = rest[~_near(rest, color)]
    if len(rest) > _MAX_OTHER * len(border):
        return None
    tint = (pixels * np.asarray(_TINT)).astype(np.uint8)
    return Image.fromarray(np.where(background[..., None], tint, pixels))


def _most_frequent(colors: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean of the most frequent colors that are nearly equal."""
    _, group, counts = np.unique(colors // _TOLERANCE, axis=0, return_inverse=True, return_counts=True)
    return np.asarray(colors[group.reshape(-1) == counts.argmax()].mean(0))


def _near(pixels: NDArray[np.uint8], color: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((np.abs(pixels - color) <= _TOLERANCE).all(-1))
