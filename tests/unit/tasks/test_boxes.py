"""Tests of boxes and heat maps."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from albef.inference.boxes import best_box, box_scores, hot_box, upsample

sides = st.integers(1, 24)


@given(sides, st.integers(1, 90), st.integers(1, 90), st.integers(0, 10**6))
def test_upsample_is_the_official_one(side, width, height, seed):
    heat = np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(heat)[None, None], (height, width), mode="bicubic")[0, 0]
    np.testing.assert_allclose(upsample(heat, width, height), expected.numpy(), atol=1e-4)


@given(sides, st.integers(1, 400), st.integers(1, 400), st.integers(0, 10**6))
def test_hot_box_lies_in_the_image_and_holds_the_hottest_place(side, width, height, seed):
    heat = np.random.default_rng(seed).random((side, side)).astype(np.float32) + 0.01
    x, y, w, h = hot_box(heat, width, height)
    assert x >= 0
    assert y >= 0
    assert w > 0
    assert h > 0
    assert x + w <= width * (1 + 1e-9)
    assert y + h <= height * (1 + 1e-9)
    fine = upsample(heat, 8 * side, 8 * side)
    row, column = np.unravel_index(int(fine.argmax()), fine.shape)
    assert x <= (column + 0.5) * width / (8 * side) <= x + w
    assert y <= (row + 0.5) * height / (8 * side) <= y + h


def test_hot_box_leaves_out_what_is_not_connected():
    heat = np.zeros((8, 8), dtype=np.float32)
    heat[1, 1], heat[6, 6] = 1.0, 0.9
    x, y, w, h = hot_box(heat, 80, 40)
    assert x + w < 40
    assert y + h < 20


def test_no_heat_at_all_has_a_box_too():
    assert hot_box(np.zeros((4, 4), dtype=np.float32), 30, 20) == (0, 0, 30, 20)


@given(st.integers(0, 10**6))
def test_boxes_of_a_large_image_are_chosen_as_those_of_a_small_one(seed):
    rng = np.random.default_rng(seed)
    heat = rng.random((6, 6)).astype(np.float32)
    boxes = np.concatenate([rng.integers(0, 40, (5, 2)), rng.integers(16, 60, (5, 2))], axis=1)
    small = box_scores(upsample(heat, 100, 100), boxes)
    chosen = best_box(heat, 4000, 4000, boxes * 40)
    assert small[chosen] > small.max() * 0.97
