"""RandAugment with the operations, magnitude and probability of the official code (N=2, M=7).

The official code computes two operations wrongly. They are reproduced only with ``official_quirks``:

- AutoContrast subtracts in bytes, so a channel whose darkest value is not 0 turns white.
- Sharpness wraps around where it leaves [0, 255]: overshoot at an edge turns dark, undershoot bright.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

Pixels = NDArray[np.uint8]
"""Bytes of shape (3, size, size)."""

FILL = 128
"""Gray that fills what a shift, shear or rotation uncovers."""
PROBABILITY = 0.5
"""Probability that a drawn operation is applied."""

# Magnitude 7 of 10.
_ENHANCE, _SHEAR, _SHIFT, _DEGREES = 0.7 * 1.8 + 0.1, 0.7 * 0.3, 7, 0.7 * 30


def rand_augment(pixels: Pixels, rng: np.random.Generator, count: int = 2, official_quirks: bool = False) -> Pixels:
    """Draw ``count`` operations and apply each with `PROBABILITY`.

    Args:
        pixels: Shape (3, size, size).
        official_quirks: Compute AutoContrast and Sharpness as the official code does; see the module.

    Returns:
        Shape (3, size, size); ``pixels`` itself if no operation changes them.
    """
    operations = list(OPERATIONS.values())
    for _ in range(count):
        operation = operations[int(len(operations) * rng.random())]
        if rng.random() < PROBABILITY:
            pixels = operation(pixels, 1 if rng.random() < 0.5 else -1, official_quirks)
    return pixels


def _identity(pixels: Pixels, sign: int, quirks: bool) -> Pixels:
    return pixels


def _autocontrast(pixels: Pixels, sign: int, quirks: bool) -> Pixels:
    values = np.arange(256.0)
    tables = [values] * 3
    for channel, plane in enumerate(pixels):
        low, high = int(plane.min()), int(plane.max())
        if low < high:
            scale = 255 / (high - low)
            tables[channel] = values * scale + (-low % 256 if quirks else -low) * scale
    return _lookup(pixels, tables)


def _equalize(pixels: Pixels, sign: int, quirks: bool) -> Pixels:
    tables = []
    for plane in torch.from_numpy(pixels):
        counts = torch.bincount(plane.flatten(), minlength=256).numpy()
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        before = np.cumsum(counts) - counts
        tables.append((before + step // 2) // step if step else np.arange(256))
    return _lookup(pixels, tables)


def _brightness(pixels: Pixels, sign: int, quirks: bool) -> Pixels:
    return _lookup(pixels, [np.arange(256) * _ENHANCE] * 3)


def _lookup(pixels: Pixels, tables: list[NDArray]) -> Pixels:
    """Replace the values of each channel by those of its table, clipped and truncated to bytes."""
    result = np.empty_like(pixels)
    for channel, table in enumerate(tables):
        codes = np.clip(table, 0, 255).astype(np.uint8).tobytes()
        # Twice as fast as indexing.
        result[channel] = np.frombuffer(pixels[channel].tobytes().translate(codes), np.uint8).reshape(result.shape[1:])
    return result


def _sharpness(pixels: Pixels, sign: int, quirks: bool) -> Pixels:
    """Move away from the smoothed image.

    The kernel is [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13. Pixels at the border stay as they are.
    """
    exact = torch.from_numpy(pixels).to(torch.int16)
    center = exact[:, 1:-1, 1:-1]
    rows = (exact[:, :-2] + exact[:, 1:-1]).add_(exact[:, 2:])
    total = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:]).add_(center, alpha=4)
    smooth = total.float().div_(13).round_()
    sharp = center.float().sub_(smooth).mul_(_ENHANCE).add_(smooth)
    result = pixels.copy()
    result[:, 1:-1, 1:-1] = (
        sharp.numpy().astype(np.int16).astype(np.uint8) if quirks else _to_bytes(sharp.clamp_(0, 255))
    )
    return result


def _to_bytes(values: Tensor) -> Pixels:
    return values.numpy().astype(np.uint8)  # four times as fast as torch's conversion


def _shift(axis: int, pixels: Pixels, sign: int, quirks: bool) -> Pixels:
    result = np.full_like(pixels, FILL)
    target, source = np.moveaxis(result, axis, 0), np.moveaxis(pixels, axis, 0)
    if sign > 0:
        target[_SHIFT:] = source[:-_SHIFT]
    else:
        target[:-_SHIFT] = source[_SHIFT:]
    return result


def _warp(name: str, pixels: Pixels, sign: int, quirks: bool) -> Pixels:
    """Shear or rotate, with bilinear interpolation, also between the image and what surrounds it."""
    image = torch.from_numpy(pixels).float().sub_(FILL)[None]
    grid = _grid(name, sign, pixels.shape[1])
    warped = grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]
    return _to_bytes(warped.add_(FILL + 0.5))


@lru_cache(maxsize=12)
def _grid(name: str, sign: int, size: int) -> Tensor:
    """Return where the pixels of a result come from, (1, size, size, 2) in [-1, 1]."""
    y, x = np.mgrid[:size, :size].astype(float)
    if name == "shear_x":
        x = x - sign * _SHEAR * y
    elif name == "shear_y":
        y = y - sign * _SHEAR * x
    else:
        angle, center = np.deg2rad(sign * _DEGREES), size / 2
        x, y = x - center, y - center
        x, y = (
            center + x * np.cos(angle) - y * np.sin(angle),
            center + x * np.sin(angle) + y * np.cos(angle),
        )
    return torch.from_numpy(np.stack([x, y], axis=-1) * 2 / (size - 1) - 1).float()[None]


OPERATIONS: dict[str, Callable[[Pixels, int, bool], Pixels]] = {
    "Identity": _identity,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": partial(_warp, "shear_x"),
    "ShearY": partial(_warp, "shear_y"),
    "TranslateX": partial(_shift, 2),
    "TranslateY": partial(_shift, 1),
    "Rotate": partial(_warp, "rotate"),
}
"""Operations by their official names. Each takes pixels, the sign of its magnitude, and ``official_quirks``."""
