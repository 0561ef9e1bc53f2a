"""Heat maps over images, blurred as in the official demo (``visualization.ipynb``).

Unlike there, the color map is perceptually uniform and legible to color-blind readers, and the image stays visible.

Needs Pillow and NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

BLUR = 0.02
"""Standard deviation of the blur, as a fraction of the longer side (official)."""
GAMMA = 0.7
"""Exponent that converts heat to opacity (official)."""
OPACITY = 0.55
"""Opacity of the most heat; the official demo hides the object under it."""
_PLASMA = ("0d0887", "4c02a1", "7e03a8", "aa2395", "cc4778", "e66c5c", "f89540", "fdc527", "f0f921")
"""Color map plasma of matplotlib at equal steps."""
TRUE, CHOSEN = "#1a7f37", "#d1242f"
"""Colors of the true box and of the predicted one."""
_SIDE = 192  # longer side of a panel in pixels
_TITLE = 14  # pixels above a panel
_GAP = 4


def blurred(values: NDArray[np.floating[Any]], sigma: float) -> NDArray[np.float64]:
    """Apply a Gaussian blur to ``(height, width)``.

    The kernel is truncated at four standard deviations; borders are mirrored.
    """
    radius = max(1, round(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-6)) ** 2)
    kernel /= kernel.sum()
    result = values.astype(np.float64)
    for axis in (0, 1):
        padding = [(radius, radius) if other == axis else (0, 0) for other in (0, 1)]
        padded = np.pad(result, padding, mode="symmetric")
        count = result.shape[axis]
        result = sum(
            (weight * padded.take(range(shift, shift + count), axis=axis) for shift, weight in enumerate(kernel)),
            start=np.zeros_like(result),
        )
    return result


def scaled(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Scale linearly to [0, 1]; a constant map becomes 0."""
    low, high = float(values.min()), float(values.max())
    return (values.astype(np.float64) - low) / (high - low) if high > low else np.zeros(values.shape)


def colorize(heat: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Map heat in [0, 1] to RGB values in [0, 1].

    Colors range from dark blue through red to yellow.

    Returns:
        Colors ``(height, width, 3)``.
    """
    colors = np.array([list(bytes.fromhex(color)) for color in _PLASMA]) / 255
    steps = np.linspace(0, 1, len(colors))
    return np.stack([np.interp(heat, steps, channel) for channel in colors.T], axis=-1)


def overlay(image: Image.Image, heat: NDArray[np.floating[Any]]) -> Image.Image:
    """Blend a heat map ``(height, width)`` over an image of this size.

    A white line surrounds what has at least half of the most heat.
    """
    smooth = scaled(blurred(scaled(heat), BLUR * max(image.size)))
    opacity = OPACITY * (smooth**GAMMA)[..., None]
    background = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    blended = (1 - opacity) * background + opacity * colorize(smooth)
    hot = smooth >= 0.5
    padded = np.pad(hot, 1, mode="edge")
    blended[hot & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])] = 1
    return Image.fromarray(np.rint(255 * blended).astype(np.uint8))


def framed(image: Image.Image, boxes: Sequence[tuple[Sequence[float], str]]) -> Image.Image:
    """Return a copy with boxes drawn in the given colors.

    Boxes are x, y, width, height.
    """
    result = image.convert("RGB")
    draw = ImageDraw.Draw(result)
    for (x, y, width, height, *_), color in boxes:
        draw.rectangle((x, y, max(x, x + width - 1), max(y, y + height - 1)), outline=color, width=2)
    return result


def resized(image: Image.Image, side: int = _SIDE) -> Image.Image:
    """Resize an image to its longer side."""
    scale = side / max(image.size)
    width, height = (max(1, round(scale * length)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def strip(panels: Sequence[tuple[str, Image.Image]], columns: int = 6) -> Image.Image:
    """Arrange titled images of equal size in rows of ``columns``."""
    width, height = panels[0][1].size
    rows = -(-len(panels) // columns)
    columns = min(columns, len(panels))
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _TITLE + _GAP) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (title, panel) in enumerate(panels):
        x = _GAP + index % columns * (width + _GAP)
        y = _GAP + index // columns * (height + _TITLE + _GAP)
        while title and draw.textlength(title) > width:
            title = title[:-1]
        draw.text((x, y), title, fill="black")
        sheet.paste(panel, (x, y + _TITLE))
    return sheet
