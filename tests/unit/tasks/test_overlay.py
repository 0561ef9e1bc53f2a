"""Tests of heat maps drawn over images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from albef.tasks.grounding.overlay import blurred, colorize, framed, overlay, scaled, strip


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0.0, 3.0))
def test_blur_keeps_a_flat_map_and_the_sum_of_heat(height: int, width: int, sigma: float) -> None:
    reach = max(1, round(4 * sigma))
    flat = np.full((height + reach, width + reach), 0.5)
    np.testing.assert_allclose(blurred(flat, sigma), 0.5, atol=1e-9)
    values = np.random.default_rng(height).random((height + reach, width + reach))
    assert blurred(values, sigma).sum() == pytest.approx(values.sum())


def test_no_heat_leaves_the_image_and_most_heat_is_red() -> None:
    image = Image.new("RGB", (40, 30), (200, 150, 100))
    cold = np.asarray(overlay(image, np.zeros((30, 40))))
    np.testing.assert_array_equal(cold, np.asarray(image))
    heat = np.zeros((30, 40))
    heat[10:20, 0:20] = 1
    warm = np.asarray(overlay(image, heat)).astype(int)
    assert warm[15, 8, 0] > warm[15, 8, 2] + 100
    np.testing.assert_array_equal(warm[2, 38], (200, 150, 100))


def test_colors_run_from_blue_over_green_to_red() -> None:
    np.testing.assert_allclose(colorize(np.array([[0.25, 0.5, 0.75]]))[0], [[0, 0.5, 1], [0.5, 1, 0.5], [1, 0.5, 0]])


def test_a_map_without_relief_is_cold() -> None:
    assert scaled(np.full((3, 3), 7.0)).max() == 0


def test_frames_lie_where_the_box_is() -> None:
    image = framed(Image.new("RGB", (20, 20)), [((5, 6, 10, 8), "#ff0000")])
    red = np.argwhere(np.asarray(image)[..., 0] == 255)
    assert red.min(axis=0).tolist() == [6, 5]
    assert red.max(axis=0).tolist() == [13, 14]


def test_a_strip_holds_every_panel() -> None:
    colors = ["red", "lime", "blue", "yellow", "cyan", "magenta", "gray"]
    sheet = strip([(name * 9, Image.new("RGB", (30, 20), name)) for name in colors])
    found = {color for _, color in sheet.getcolors(1 << 20) or []}
    assert {Image.new("RGB", (1, 1), name).getpixel((0, 0)) for name in colors} <= found
