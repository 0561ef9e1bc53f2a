"""Training-time decoding and augmentation.

Evaluation and serving use only `albef.data.images.to_pixels`. All randomness comes from the sample's generator, so a
resumed run sees the same images.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from numpy.typing import NDArray

from albef.data.crops import decode_crop
from albef.data.rand_augment import rand_augment

# A mirrored image contradicts a caption that names a side.
_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def names_side(caption: str) -> bool:
    """Return whether a caption mentions left or right."""
    return _SIDES.search(caption) is not None


def training_pixels(
    data: bytes,
    name: str,
    caption: str,
    size: int,
    kind: str,
    crop_scale: float,
    rng: np.random.Generator,
    official_quirks: bool = False,
) -> NDArray[np.uint8]:
    """Decode and augment an image.

    Args:
        data: The encoded image.
        name: Name of the image in error messages, usually its path.
        caption: Text of the image; one that mentions left or right prevents mirroring.
        size: Pixels per side of the result.
        kind: ``none``; ``light`` (small shifts and brightness, for images whose layout matters); ``randaugment``
            (official: random resized crop, mirroring, RandAugment).
        crop_scale: Smallest area fraction of the crop (official: 0.2 in pretraining, 0.5 in fine-tuning); 1: no crop.
        official_quirks: See `albef.data.rand_augment`.

    Returns:
        Shape (3, size, size).

    Raises:
        ImageError: If the image cannot be read or is too large; the message starts with ``name``.
    """
    pixels = decode_crop(data, name, size, crop_scale if kind == "randaugment" else 1.0, rng)
    if kind == "light":
        return _shifted(pixels, rng)
    if kind == "randaugment":
        if rng.random() < 0.5 and not names_side(caption):
            pixels = torch.from_numpy(pixels).flip(2).numpy()  # ten times as fast as NumPy
        return rand_augment(pixels, rng, official_quirks=official_quirks)
    return pixels


def _shifted(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Shift by up to 1/16 of the side, scale brightness by 0.8 to 1.2."""
    size = pixels.shape[1]
    max_shift = max(size // 16, 1)
    dx, dy = (int(v) for v in rng.integers(-max_shift, max_shift + 1, size=2))
    # Edge pixels are repeated to fill the area that the shift uncovers.
    rows = np.clip(np.arange(size) + dy, 0, size - 1)
    columns = np.clip(np.arange(size) + dx, 0, size - 1)
    scaled = pixels[:, rows[:, None], columns[None, :]].astype(np.float32) * rng.uniform(0.8, 1.2)
    return np.asarray(np.clip(scaled, 0, 255), dtype=np.uint8)
