"""Tests of the decoding of random crops: distribution, geometry and refused files."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from albef.data.crops import RATIOS, decode_crop, random_box
from albef.data.images import MAX_PIXELS, ImageError, decode
from tests.errors import refuses
from tests.unit.data.test_images import encoded, png_header

EXIF_ORIENTATION = 0x0112


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scene(width: int, height: int) -> Image.Image:
    """Ramps along both axes, and texture: crops show where they are."""
    y, x = np.mgrid[:height, :width]
    texture = 40 * np.sin(x / 7) * np.cos(y / 9) + rng().normal(size=(height, width)) * 3
    planes = [255 * x / width, 255 * y / height, 128 + texture]
    return Image.fromarray(np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8))


def reference(image: Image.Image, size: int, low: float, seed: int, scale: int = 1) -> np.ndarray:
    """The crop of `decode_crop`, from all pixels and by Pillow.

    It is rounded to pixels of 1 / ``scale``.
    """
    box = random_box(*image.size, low, rng(seed))
    rounded = tuple((edge + scale // 2) // scale * scale for edge in box)
    crop = image.crop(rounded).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(crop, float).transpose(2, 0, 1)


def largest_gap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Kolmogorov-Smirnov statistic of two samples."""
    values = np.sort(np.concatenate([ours, theirs]))
    shares = [np.searchsorted(np.sort(sample), values, "right") / len(sample) for sample in (ours, theirs)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize("low", [0.2, 0.5])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 900)])
def test_crops_are_distributed_as_torchvisions(width: int, height: int, low: float) -> None:
    count, generator = 4000, rng()
    ours = np.array([random_box(width, height, low, generator) for _ in range(count)], float)
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    drawn = [RandomResizedCrop.get_params(image, [low, 1.0], list(RATIOS)) for _ in range(count)]
    theirs = np.array([(left, top, left + w, top + h) for top, left, h, w in drawn], float)

    def facts(boxes: np.ndarray) -> dict[str, np.ndarray]:
        left, top, right, bottom = boxes.T
        w, h = right - left, bottom - top
        return {"area": w * h, "ratio": w / h, "left": left, "top": top, "right": right, "bottom": bottom}

    # One of 10,000 pairs of samples from one distribution is further apart.
    limit = np.sqrt(np.log(2 / 1e-4) / 2) * np.sqrt(2 / count)
    mine, torchs = facts(ours), facts(theirs)
    assert {name: gap for name in mine if (gap := largest_gap(mine[name], torchs[name])) > limit} == {}


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (1, 400), (400, 1), (333, 100)])
def test_narrow_images_are_cropped_in_the_middle(size: tuple[int, int]) -> None:
    width, height = size
    top, left, h, w = RandomResizedCrop.get_params(torch.empty(3, height, width), [1.0, 1.0], list(RATIOS))
    assert random_box(width, height, 0.9999, rng()) == (left, top, left + w, top + h)


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([0.08, 0.2, 0.5, 1.0]), st.integers(0, 99))
def test_crops_are_in_the_image(width: int, height: int, low: float, seed: int) -> None:
    left, top, right, bottom = random_box(width, height, low, rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if low == 1:
        assert (left, top, right, bottom) == (0, 0, width, height)


@pytest.mark.parametrize(("size", "scale"), [(245, 1), (125, 2), (62, 4), (31, 8)])
def test_reduced_decoding_shows_the_same_crop(size: int, scale: int) -> None:
    data = encoded(scene(640, 480), "JPEG", quality=90)
    whole = decode(data)
    for seed in range(12):
        # Crops of 70 to 100 % of the area, whose shorter side has 400 to 480 pixels.
        pixels = decode_crop(data, "scene", size, 0.7, rng(seed))
        assert (pixels.shape, pixels.dtype) == ((3, size, size), np.uint8)
        assert pixels.flags.c_contiguous
        assert np.abs(pixels - reference(whole, size, 0.7, seed, scale)).mean() < 0.7
        # The ramps rise by less than 255 levels over the crop: it is off by less than half a pixel of the result.
        for ramp in (pixels - reference(whole, size, 0.7, seed))[:2]:
            assert abs(ramp.mean()) < 0.5 * 255 / size


def test_a_jpeg_is_decoded_no_smaller_than_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    scales = []
    real = decode_crop.__globals__["_decoded"]
    monkeypatch.setitem(decode_crop.__globals__, "_decoded", lambda *a: scales.append(a[-1]) or real(*a))
    data = encoded(scene(1024, 768), "JPEG")
    for side in (96, 97, 192, 193, 384, 385):
        decode_crop(data, "scene", side, 1.0, rng())
    assert scales == [8, 4, 4, 2, 2, 1]
    decode_crop(encoded(scene(1024, 768)), "scene", 96, 1.0, rng())
    assert scales[-1] == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [40, 150])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_crops_are_upright(kind: str, size: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    data = encoded(scene(400, 200), kind, exif=exif)
    upright = decode(data)
    assert upright.size == ((200, 400) if orientation >= 5 else (400, 200))
    for low in (0.3, 1.0):
        difference = decode_crop(data, "photo", size, low, rng(4)) - reference(upright, size, low, 4)
        assert np.abs(difference).mean() < 1.5


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_invalid_orientations_are_ignored() -> None:
    plain = encoded(scene(40, 20), "JPEG")
    for exif in (b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12", b"Exif\0\0", b"Exif\0\0MM"):
        broken = encoded(scene(40, 20), "JPEG", exif=exif)
        assert np.array_equal(decode_crop(broken, "a", 16, 0.5, rng()), decode_crop(plain, "a", 16, 0.5, rng()))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_whole_images_are_decoded_as_elsewhere(mode: str) -> None:
    image = scene(48, 48)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    for kind in {"CMYK": ["JPEG", "TIFF"], "L": ["JPEG", "PNG"]}.get(mode, ["PNG"]):
        data = encoded(image, kind)
        expected = np.asarray(decode(data)).transpose(2, 0, 1)
        assert np.array_equal(decode_crop(data, "image", 48, 1.0, rng()), expected)


@pytest.mark.parametrize(
    "options", [{"keep_rgb": True}, {"subsampling": 0}, {"subsampling": 1, "progressive": True}, {"subsampling": 2}]
)
def test_jpegs_are_decoded_as_elsewhere(options: dict[str, Any]) -> None:
    data = encoded(scene(200, 200), "JPEG", **options)
    difference = decode_crop(data, "image", 200, 1.0, rng()) - np.asarray(decode(data), float).transpose(2, 0, 1)
    # Chroma of a lower resolution is not smoothed.
    assert np.abs(difference).mean() <= (2.0 if options.get("subsampling") else 0.0)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_read_is_named() -> None:
    data = encoded(scene(300, 200), "JPEG")
    for bad in (b"", b"hello", data[: len(data) // 2], data[:200], png_header(30, 20)):
        with refuses(ImageError, "photos/7.jpg"):
            decode_crop(bad, "photos/7.jpg", 32, 0.2, rng())
    with refuses(ImageError, "bomb.png", MAX_PIXELS):
        decode_crop(png_header(12000, 12000), "bomb.png", 32, 0.2, rng())


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP"]), st.data())
def test_broken_bytes_are_refused_or_decoded_as_elsewhere(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(scene(40, 30), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    readable = True
    with contextlib.suppress(ImageError):
        readable = False
        decode(bytes(content))
        readable = True
    try:
        pixels = decode_crop(bytes(content), "fuzz", 8, 0.5, rng())
    except ImageError:
        assert not readable
    else:
        assert pixels.shape == (3, 8, 8)
        assert readable
