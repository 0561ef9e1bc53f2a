"""Boxes and heat maps of grounding. NumPy only: serving uses this very file.

Boxes are x, y, width, height in pixels of the picture; G = patches a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = Sequence[float]
Floats = NDArray[np.floating[Any]]

_LARGEST = 512
"""Pixels of the longer side of an upsampled map: a box needs no more, and a large picture would take seconds."""
_FINE = 8
"""Cells a patch in the search for the surroundings of the hottest place."""


def iou(first: Box, second: Box) -> float:
    """Intersection over union, corners counted as pixels (the official ``computeIoU``)."""
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right = min(first[0] + first[2], second[0] + second[2]) - 1
    bottom = min(first[1] + first[3], second[1] + second[3]) - 1
    inner = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0.0
    return inner / (first[2] * first[3] + second[2] * second[3] - inner)


def box_scores(heat: Floats, boxes: Sequence[Box] | Floats) -> NDArray[np.float64]:
    """Heat within each box over the square root of its area; an integral image serves all boxes.

    Args:
        heat: ``(height, width)`` of the picture.
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
    """Cubic convolution (A = -0.75) from ``size`` samples to ``target``, as a matrix; edges are repeated."""
    a = -0.75
    place = (np.arange(target) + 0.5) * size / target - 0.5
    base = np.floor(place).astype(int)
    matrix = np.zeros((target, size))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(place - (base + offset))
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        column = (base + offset).clip(0, size - 1)
        np.add.at(matrix, (np.arange(target), column), np.where(distance <= 1, near, far))
    return matrix


def upsample(heat: Floats, width: int, height: int) -> NDArray[np.float32]:
    """A map ``(G, G)`` at the size of the picture ``(height, width)``: PyTorch's bicubic, corners not aligned."""
    rows, columns = heat.shape
    large: NDArray[np.float32] = (_weights(rows, height) @ heat @ _weights(columns, width).T).astype(np.float32)
    return large


def best_box(heat: Floats, width: int, height: int, boxes: Sequence[Box] | Floats) -> int:
    """The proposal of a picture that a map ``(G, G)`` means."""
    scale = min(1.0, _LARGEST / max(width, height))
    shown = upsample(heat, max(1, round(width * scale)), max(1, round(height * scale)))
    return int(box_scores(shown, np.asarray(boxes, dtype=np.float64) * scale).argmax())


def hot_box(heat: Floats, width: int, height: int, share: float = 0.5) -> tuple[float, float, float, float]:
    """The box around the hottest place of a map ``(G, G)``: what is connected to it and at least ``share`` as hot."""
    large = upsample(heat, heat.shape[1] * _FINE, heat.shape[0] * _FINE)
    peak = np.unravel_index(int(large.argmax()), large.shape)
    hot = large >= share * large[peak]
    found = np.zeros_like(hot)
    found[peak] = True
    while True:
        spread = np.pad(found, 1)
        grown = found | ((spread[:-2, 1:-1] | spread[2:, 1:-1] | spread[1:-1, :-2] | spread[1:-1, 2:]) & hot)
        if (grown == found).all():
            break
        found = grown
    rows, columns = found.any(axis=1).nonzero()[0], found.any(axis=0).nonzero()[0]
    across, down = width / large.shape[1], height / large.shape[0]
    left, top = float(columns[0] * across), float(rows[0] * down)
    return left, top, float((columns[-1] + 1) * across) - left, float((rows[-1] + 1) * down) - top
