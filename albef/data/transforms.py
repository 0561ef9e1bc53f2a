"""Training-time image augmentation.

Evaluation and serving use only `albef.data.images.to_pixels`. All randomness comes from the sample's generator, so a
resumed run sees the same images.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

# A mirrored image contradicts a caption that names a side.
_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_FILL = (128, 128, 128)


def names_side(caption: str) -> bool:
    """Return whether a caption mentions left or right."""
    return _SIDES.search(caption) is not None


def random_resized_crop(image: Image.Image, size: int, low: float, rng: np.random.Generator) -> Image.Image:
    """Crop a random area and resize it to a square (bicubic).

    The area fraction is in [low, 1], the aspect ratio in [3/4, 4/3]; ``low`` 1 disables cropping.
    """
    width, height = image.size
    for _ in range(10 if low < 1 else 0):
        area = width * height * rng.uniform(low, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    return image.resize((size, size), Image.Resampling.BICUBIC)


def _operations() -> list[Callable[[Image.Image, float], Image.Image]]:
    """Return the ten operations of the official RandAugment.

    The magnitude is 7 of 10. Each operation takes an image and the sign (+1 or -1) of its magnitude.
    """
    from timm.data import auto_augment as ops

    enhance, shear, shift, angle = 0.7 * 1.8 + 0.1, 0.7 * 0.3, 0.7 * 10, 0.7 * 30
    fill: dict[str, Any] = {"fillcolor": _FILL, "resample": Image.Resampling.BILINEAR}
    return [
        lambda image, sign: image,
        lambda image, sign: ops.auto_contrast(image),
        lambda image, sign: ops.equalize(image),
        lambda image, sign: ops.brightness(image, enhance),
        lambda image, sign: ops.sharpness(image, enhance),
        lambda image, sign: ops.shear_x(image, sign * shear, **fill),
        lambda image, sign: ops.shear_y(image, sign * shear, **fill),
        lambda image, sign: ops.translate_x_abs(image, sign * shift, **fill),
        lambda image, sign: ops.translate_y_abs(image, sign * shift, **fill),
        lambda image, sign: ops.rotate(image, sign * angle, **fill),
    ]


def rand_augment(image: Image.Image, rng: np.random.Generator, count: int = 2) -> Image.Image:
    """Apply ``count`` random operations, as the official code does (RandAugment N=2, M=7)."""
    operations = _operations()
    for index in rng.integers(len(operations), size=count):
        image = operations[index](image, 1.0 if rng.random() < 0.5 else -1.0)
    return image


def augment(
    image: Image.Image, caption: str, size: int, kind: str, crop_scale: float, rng: np.random.Generator
) -> Image.Image:
    """Augment an RGB image.

    Args:
        caption: Text of the image; one that mentions left or right prevents mirroring.
        size: Pixels per side of the result.
        kind: ``none``; ``light`` (small shifts and brightness, for images whose layout matters); ``randaugment``
            (official: random resized crop, mirroring, RandAugment).
        crop_scale: Smallest area fraction of the crop (official: 0.2 in pretraining, 0.5 in fine-tuning); 1: no crop.
    """
    if kind == "none":
        return image
    if kind == "light":
        image = image.resize((size, size), Image.Resampling.BICUBIC) if image.size != (size, size) else image
        max_shift = max(size // 16, 1)
        dx, dy = (int(v) for v in rng.integers(-max_shift, max_shift + 1, size=2))
        # Edge pixels are repeated to fill the area that the shift uncovers.
        pixels = np.asarray(image)
        rows = np.clip(np.arange(size) + dy, 0, size - 1)
        columns = np.clip(np.arange(size) + dx, 0, size - 1)
        pixels = pixels[rows[:, None], columns[None, :]]
        scaled = pixels.astype(np.float32) * rng.uniform(0.8, 1.2)
        return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))
    image = random_resized_crop(image, size, crop_scale, rng)
    if rng.random() < 0.5 and not names_side(caption):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return rand_augment(image, rng)
