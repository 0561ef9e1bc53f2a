"""Tests of the perceptual hash and its search."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from albef.validation.perceptual_hash import search, signatures, thumbnail


def scene(seed: int, side: int = 96) -> Image.Image:
    """A smooth image with edges, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    image = coarse.resize((side, side), Image.Resampling.BICUBIC)
    image.paste(tuple(rng.integers(0, 256, 3).tolist()), (side // 4, side // 4, side // 2, side // 2))
    return image


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def distance(first: Image.Image, second: Image.Image) -> tuple[int, int]:
    """Bits between hashes, and the largest difference of colors."""
    hashes, hashed, colors = signatures([thumbnail(first), thumbnail(second)])
    assert hashed.all()
    return int(np.bitwise_count(hashes[0] ^ hashes[1])), int(np.abs(np.diff(colors.astype(int), axis=0)).max())


@pytest.mark.parametrize(("side", "quality"), [(48, 75), (96, 60), (64, 75), (250, 75)])
def test_copies_in_another_size_and_compression_stay_near(side: int, quality: int) -> None:
    found = []
    for seed in range(100):
        bits, color = distance(scene(seed), recompressed(scene(seed).resize((side, side)), quality))
        found.append(bits <= 3 and color <= 16)
    assert sum(found) >= 95


@given(seeds=st.lists(st.integers(0, 10_000), min_size=2, max_size=2, unique=True))
def test_different_scenes_are_far(seeds: list[int]) -> None:
    assert distance(scene(seeds[0]), scene(seeds[1]))[0] > 7


def test_colors_tell_scenes_of_equal_gray_apart() -> None:
    image = scene(3)
    bits, color = distance(image, image.convert("L").convert("RGB"))
    assert bits <= 3
    assert color > 16


def test_an_image_of_one_color_has_no_hash() -> None:
    _, hashed, colors = signatures([thumbnail(Image.new("RGB", (50, 40), (10, 20, 30))), thumbnail(scene(0))])
    assert hashed.tolist() == [False, True]
    assert colors[0].reshape(-1, 3).tolist() == [[10, 20, 30]] * 16
    assert [len(a) for a in signatures([])] == [0, 0, 0]


@pytest.mark.parametrize("limit", range(8))
def test_search_finds_exactly_what_comparing_all_finds(limit: int) -> None:
    rng = np.random.default_rng(limit)
    hashes = rng.integers(0, 2**64, 200, dtype=np.uint64)
    queries = rng.choice(hashes, 400)
    for _ in range(9):  # flip up to nine bits
        queries = queries ^ (np.uint64(1) << rng.integers(0, 64, len(queries), dtype=np.uint64))
    queries[:50] = hashes[:50]
    bits = np.bitwise_count(queries[:, None] ^ hashes)
    expected = {(int(q), int(h), int(bits[q, h])) for q, h in zip(*np.nonzero(bits <= limit), strict=True)}
    found = list(zip(*(values.tolist() for values in search(queries, hashes, limit)), strict=True))
    assert len(found) == len(expected)
    assert set(found) == expected
