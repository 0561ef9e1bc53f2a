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


def test_colors_get_lighter_with_heat() -> None:
    colors = colorize(np.linspace(0, 1, 101)[None])[0]
    np.testing.assert_allclose(colors[[0, -1]], np.array([[13, 8, 135], [240, 249, 33]]) / 255)
    assert (np.diff(colors @ [0.2126, 0.7152, 0.0722]) > 0).all()


def test_the_object_stays_visible_under_the_most_heat() -> None:
    image = Image.effect_noise((60, 60), 120).convert("RGB")
    heat = np.zeros((60, 60))
    heat[20:40, 20:40] = 1
    inside = np.s_[27:33, 27:33, 1]
    before, after = (np.asarray(each)[inside].ravel().astype(float) for each in (image, overlay(image, heat)))
    assert np.corrcoef(before, after)[0, 1] > 0.95
    assert after.std() > 0.3 * before.std()


def test_a_line_surrounds_half_of_the_heat() -> None:
    heat = np.exp(-((np.arange(80) - 40) ** 2) / 200)
    white = (np.asarray(overlay(Image.new("RGB", (80, 80)), heat[:, None] * heat)) == 255).all(axis=2)
    radii = np.hypot(*(np.argwhere(white) - 40).T)
    assert len(radii) > 40
    assert radii.max() - radii.min() < 2


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
