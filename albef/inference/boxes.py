"""Boxes and heat maps of grounding.

The file is copied into the model repository, so it needs NumPy only.

Boxes are x, y, width, height in pixels of the image; G = patches per side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = Sequence[float]
Floats = NDArray[np.floating[Any]]

_MAX_SIDE = 512
"""Longer side of an upsampled map in pixels; more would take seconds for large images and not improve boxes."""
_CELLS_PER_PATCH = 8
"""Resolution of the map from which `hot_box` derives a box."""


def iou(first: Box, second: Box) -> float:
    """Return the intersection over union, with corners inclusive (official ``computeIoU``)."""
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right = min(first[0] + first[2], second[0] + second[2]) - 1
    bottom = min(first[1] + first[3], second[1] + second[3]) - 1
    intersection = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0.0
    return intersection / (first[2] * first[3] + second[2] * second[3] - intersection)


def box_scores(heat: Floats, boxes: Sequence[Box] | Floats) -> NDArray[np.float64]:
    """Return each box's heat over the square root of its area.

    Args:
        heat: Heat map ``(height, width)`` at the size of the image.
    """
    height, width = heat.shape
    integral = np.zeros((height + 1, width + 1))
    integral[1:, 1:] = heat.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    array = np.asarray([box[:4] for box in boxes], dtype=np.float64)
    x0, y0 = array[:, 0].astype(int).clip(0, width), array[:, 1].astype(int).clip(0, height)
    x1 = (array[:, 0] + array[:, 2]).astype(int).clip(0, width)
    y1 = (array[:, 1] + array[:, 3]).astype(int).clip(0, height)
    inside = integral[y1, x1] - integral[y0, x1] - integral[y1, x0] + integral[y0, x0]
    scores: NDArray[np.float64] = inside / np.sqrt(array[:, 2] * array[:, 3])
    return scores


def _weights(size: int, target: int) -> NDArray[np.float64]:
    """Return the matrix ``(target, size)`` of cubic convolution.

    A = -0.75; edges are repeated.
    """
    a = -0.75
    position = (np.arange(target) + 0.5) * size / target - 0.5
    base = np.floor(position).astype(int)
    matrix = np.zeros((target, size))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(position - (base + offset))
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        column = (base + offset).clip(0, size - 1)
        np.add.at(matrix, (np.arange(target), column), np.where(distance <= 1, near, far))
    return matrix


def upsample(heat: Floats, width: int, height: int) -> NDArray[np.float32]:
    """Resize a map ``(G, G)`` to ``(height, width)``.

    The result equals PyTorch's bicubic interpolation with ``align_corners=False``.
    """
    rows, columns = heat.shape
    large: NDArray[np.float32] = (_weights(rows, height) @ heat @ _weights(columns, width).T).astype(np.float32)
    return large


def best_box(heat: Floats, width: int, height: int, boxes: Sequence[Box] | Floats) -> int:
    """Return the index of the best proposal under a map ``(G, G)``."""
    scale = min(1.0, _MAX_SIDE / max(width, height))
    resized = upsample(heat, max(1, round(width * scale)), max(1, round(height * scale)))
    return int(box_scores(resized, np.asarray(boxes, dtype=np.float64) * scale).argmax())


def hot_box(heat: Floats, width: int, height: int, fraction: float = 0.5) -> tuple[float, float, float, float]:
    """Return the box around the maximum of a map ``(G, G)``.

    The box bounds the region that is connected to the maximum and has at least ``fraction`` of its value.
    """
    large = upsample(heat, heat.shape[1] * _CELLS_PER_PATCH, heat.shape[0] * _CELLS_PER_PATCH)
    peak = np.unravel_index(int(large.argmax()), large.shape)
    hot = large >= fraction * large[peak]
    region = np.zeros_like(hot)
    region[peak] = True
    while True:
        padded = np.pad(region, 1)
        grown = region | ((padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]) & hot)
        if (grown == region).all():
            break
        region = grown
    rows, columns = region.any(axis=1).nonzero()[0], region.any(axis=0).nonzero()[0]
    scale_x, scale_y = width / large.shape[1], height / large.shape[0]
    left, top = float(columns[0] * scale_x), float(rows[0] * scale_y)
    return left, top, float((columns[-1] + 1) * scale_x) - left, float((rows[-1] + 1) * scale_y) - top
