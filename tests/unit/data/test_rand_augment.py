"""Tests of RandAugment: distribution of operations, and their pixels against Pillow's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from albef.data.rand_augment import FILL, OPERATIONS, rand_augment

SIZE = 64
ENHANCE, SHEAR, SHIFT, DEGREES = 1.36, 0.21, 7, 21
"""Magnitude 7 of 10 in the official code."""


def texture(low: int = 10, high: int = 240) -> np.ndarray:
    """Smooth noise (3, size, size); each channel has values from ``low`` to ``high``."""
    coarse = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    values = np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC), float).transpose(
        2, 0, 1
    )
    values -= values.min((1, 2), keepdims=True)
    return (low + values / values.max((1, 2), keepdims=True) * (high - low)).astype(np.uint8)


def image_of(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def pixels_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


def warped(image: Image.Image, x: tuple[float, float, float], y: tuple[float, float, float]) -> Image.Image:
    """Move pixels; the image is surrounded by gray.

    Each comes from (x0 x + x1 y + x2, y0 x + y1 y + y2). Pillow's coordinates are those of corners, ours of centers of
    pixels. It does not interpolate across the border, so the image gets one.
    """
    border = SIZE
    wide = ImageOps.expand(image, border, (FILL,) * 3)
    coefficients = []
    for a, b, c in (x, y):
        coefficients += [a, b, c + border + 0.5 - (a + b) * (border + 0.5)]
    turned = wide.transform(wide.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return turned.crop((border, border, border + SIZE, border + SIZE))


def expected(name: str, image: Image.Image, sign: int) -> Image.Image:
    """The operation by Pillow."""
    cos, sin, center = np.cos(np.deg2rad(DEGREES)), sign * np.sin(np.deg2rad(DEGREES)), SIZE / 2
    return {
        "Identity": lambda: image,
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Brightness": lambda: ImageEnhance.Brightness(image).enhance(ENHANCE),
        "Sharpness": lambda: ImageEnhance.Sharpness(image).enhance(ENHANCE),
        "ShearX": lambda: warped(image, (1, -sign * SHEAR, 0), (0, 1, 0)),
        "ShearY": lambda: warped(image, (1, 0, 0), (-sign * SHEAR, 1, 0)),
        "TranslateX": lambda: warped(image, (1, 0, -sign * SHIFT), (0, 1, 0)),
        "TranslateY": lambda: warped(image, (1, 0, 0), (0, 1, -sign * SHIFT)),
        "Rotate": lambda: warped(image, (cos, -sin, center * (1 - cos + sin)), (sin, cos, center * (1 - sin - cos))),
    }[name]()


EXACT = {"Identity", "AutoContrast", "Equalize", "Brightness", "TranslateX", "TranslateY"}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_pillow(name: str, sign: int) -> None:
    pixels = texture()
    before = pixels.copy()
    ours = OPERATIONS[name](pixels, sign, False)
    assert (ours.shape, ours.dtype) == (pixels.shape, np.uint8)
    assert np.array_equal(pixels, before)
    difference = np.abs(ours.astype(int) - pixels_of(expected(name, image_of(pixels), sign)))
    assert difference.max() <= (0 if name in EXACT else 1)
    if name != "Identity":
        assert not np.array_equal(ours, pixels)


@pytest.mark.parametrize("value", [0, 77, 255])
@pytest.mark.parametrize("name", ["AutoContrast", "Equalize", "Sharpness"])
def test_flat_images_stay(name: str, value: int) -> None:
    flat = np.full((3, SIZE, SIZE), value, np.uint8)
    for quirks in (False, True):
        assert np.array_equal(OPERATIONS[name](flat, 1, quirks), flat)


def test_quirk_of_contrast() -> None:
    """A channel whose darkest value is 0 is right; any other turns white."""
    pixels = texture()
    pixels[1] = texture(0, 240)[1]
    ours = OPERATIONS["AutoContrast"](pixels, 1, True)
    assert (ours[[0, 2]] == 255).all()
    assert np.array_equal(ours[1], pixels_of(ImageOps.autocontrast(image_of(pixels)))[1])


def test_quirk_of_sharpness() -> None:
    """By hand, at an edge: 0 and 255 become 59 and 196, then -21.2 and 276.2."""
    pixels = np.zeros((3, SIZE, SIZE), np.uint8)
    pixels[:, :, SIZE // 2 :] = 255
    row = {quirks: OPERATIONS["Sharpness"](pixels, 1, quirks)[0, SIZE // 2] for quirks in (False, True)}
    edge = slice(SIZE // 2 - 2, SIZE // 2 + 2)
    assert row[False][edge].tolist() == [0, 0, 255, 255]
    assert row[True][edge].tolist() == [0, 235, 20, 255]


def test_each_of_two_operations_is_applied_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[tuple[str, int]] = []

    def recorded(name: str):
        real = OPERATIONS[name]

        def operation(pixels: np.ndarray, sign: int, quirks: bool) -> np.ndarray:
            applied.append((name, sign))
            return real(pixels, sign, quirks)

        return operation

    for name in list(OPERATIONS):
        monkeypatch.setitem(OPERATIONS, name, recorded(name))
    pixels, rng, images = texture()[:, :16, :16].copy(), np.random.default_rng(0), 4000
    counts = []
    for _ in range(images):
        before = len(applied)
        rand_augment(pixels, rng)
        counts.append(len(applied) - before)

    def close(count: int, share: float, total: int) -> bool:
        return abs(count - share * total) < 4 * np.sqrt(total * share * (1 - share))

    number = Counter(counts)
    assert all(close(number[count], share, images) for count, share in {0: 0.25, 1: 0.5, 2: 0.25}.items())
    names, signs = (Counter(values) for values in zip(*applied, strict=True))
    assert set(names) == set(OPERATIONS)
    assert all(close(count, 0.1, len(applied)) for count in names.values())
    assert close(signs[1], 0.5, len(applied))


def test_the_generator_decides() -> None:
    pixels = texture()
    results = [rand_augment(pixels, np.random.default_rng(seed)) for seed in (0, 0, *range(1, 20))]
    assert np.array_equal(results[0], results[1])
    assert len({result.tobytes() for result in results[1:]}) > 8
