"""Heat maps over pictures, word by word, as in the official demo (``visualization.ipynb``); Pillow and NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

BLUR = 0.02
"""Standard deviation of the blur, as a share of the longer side (official)."""
GAMMA = 0.7
"""Exponent of the heat where it mixes with the picture (official)."""
_TITLE = 14  # pixels above a panel
_GAP = 4


def blurred(values: NDArray[np.floating[Any]], sigma: float) -> NDArray[np.float64]:
    """Gaussian blur of ``(height, width)``, cut at four deviations; the border repeats mirrored."""
    reach = max(1, round(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-6)) ** 2)
    kernel /= kernel.sum()
    result = values.astype(np.float64)
    for axis in (0, 1):
        padding = [(reach, reach) if other == axis else (0, 0) for other in (0, 1)]
        padded = np.pad(result, padding, mode="symmetric")
        count = result.shape[axis]
        result = sum(
            (weight * padded.take(range(shift, shift + count), axis=axis) for shift, weight in enumerate(kernel)),
            start=np.zeros_like(result),
        )
    return result


def scaled(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Between 0 and 1; a flat map is 0."""
    low, high = float(values.min()), float(values.max())
    return (values.astype(np.float64) - low) / (high - low) if high > low else np.zeros(values.shape)


def coloured(heat: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Heat in [0, 1] as RGB in [0, 1] from blue over green to red: ``(height, width, 3)``."""
    centres = np.array([3.0, 2.0, 1.0])
    colours: NDArray[np.float64] = np.clip(1.5 - np.abs(4 * heat[..., None] - centres), 0, 1)
    return colours


def overlay(picture: Image.Image, heat: NDArray[np.floating[Any]]) -> Image.Image:
    """A picture under the heat map of its size ``(height, width)``."""
    warm = scaled(blurred(scaled(heat), BLUR * max(picture.size)))
    share = (warm**GAMMA)[..., None]
    below = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
    return Image.fromarray(np.rint(255 * ((1 - share) * below + share * coloured(warm))).astype(np.uint8))


def framed(picture: Image.Image, boxes: Sequence[tuple[Sequence[float], str]]) -> Image.Image:
    """A copy with boxes (x, y, width, height) drawn on it, each in its colour."""
    result = picture.convert("RGB")
    draw = ImageDraw.Draw(result)
    for (x, y, width, height, *_), colour in boxes:
        draw.rectangle((x, y, max(x, x + width - 1), max(y, y + height - 1)), outline=colour, width=2)
    return result


def strip(panels: Sequence[tuple[str, Image.Image]], columns: int = 6) -> Image.Image:
    """Pictures of one size with a title each, ``columns`` in a row."""
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
