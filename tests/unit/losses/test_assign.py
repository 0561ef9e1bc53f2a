"""Tests of drawing image pairs for text assignment."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from albef.losses.assign import FIRST, NEITHER, SECOND, draw_pairs
from tests.errors import refuses


@given(st.integers(3, 9), st.integers(0, 1000), st.booleans())
def test_labels_say_where_the_own_image_is(size: int, seed: int, broken: bool) -> None:
    """Labels are valid for NaN features too, and where a softmax underflows."""
    torch.manual_seed(seed)
    features = torch.full((size, 4), float("nan")) if broken else F.normalize(torch.randn(size, 4), dim=1)
    if seed % 2 and not broken:
        features = features * 100
    rows, labels = draw_pairs(features)
    assert rows.shape == (size, 2)
    for own, ((first, second), label) in enumerate(zip(rows.tolist(), labels.tolist(), strict=True)):
        assert (first == own) == (label == FIRST)
        assert (second == own) == (label == SECOND)
        assert first != second


def test_labels_are_a_third_each() -> None:
    torch.manual_seed(0)
    features = F.normalize(torch.randn(6, 4), dim=1)
    labels = torch.cat([draw_pairs(features)[1] for _ in range(1000)])
    for label in (FIRST, SECOND, NEITHER):
        assert float((labels == label).float().mean()) == pytest.approx(1 / 3, abs=0.03)


def test_others_are_drawn_by_similarity() -> None:
    """Image 1 is drawn 17 times as often as image 2.

    Their similarities to image 0 are 1 and 0.8: exp(1 / 0.07) / exp(0.8 / 0.07) is 17.
    """
    torch.manual_seed(0)
    features = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    drawn = []
    for _ in range(2000):
        rows, labels = draw_pairs(features)
        if labels[0] != NEITHER:
            drawn.append(int(rows[0, 1 if labels[0] == FIRST else 0]))
    assert drawn.count(1) / len(drawn) == pytest.approx(17.4 / 18.4, abs=0.03)
    assert drawn.count(3) == 0


def test_a_batch_of_two_is_a_clear_error() -> None:
    with refuses(ValueError, "batch_size", 2):
        draw_pairs(torch.randn(2, 4))
