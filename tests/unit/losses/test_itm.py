"""Tests of sampling hard negatives for ITM."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from albef.losses.itm import draw_negatives, itm_loss
from tests.errors import refuses


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8), st.integers(0, 100))
def test_never_the_same_item(ids: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    same = torch.tensor(ids)[:, None] == torch.tensor(ids)[None, :]
    # Similarities so far apart that a softmax before the masking would underflow to zero everywhere else.
    index, valid = draw_negatives(torch.eye(len(ids)) * 1e4 + torch.randn(len(ids), len(ids)) * 500, same)
    for row, (column, ok) in enumerate(zip(index.tolist(), valid.tolist(), strict=True)):
        assert ok == (len(set(ids)) > 1)
        assert not ok or ids[column] != ids[row]


def test_follows_the_similarity() -> None:
    torch.manual_seed(0)
    similarity = torch.tensor([[9.0, 0.0, 1.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    draws = torch.stack([draw_negatives(similarity)[0] for _ in range(2000)])
    share = float((draws[:, 0] == 2).float().mean())
    assert share == pytest.approx(math.e / (1 + math.e), abs=0.04)


def test_single_pair_is_a_clear_error() -> None:
    with refuses(ValueError, "batch_size", 1):
        draw_negatives(torch.zeros(1, 1))


def test_rows_without_negative_do_not_count() -> None:
    positive, negative = torch.randn(2, 2), torch.randn(2, 2)
    partly = itm_loss(positive, negative, torch.tensor([True, False]))
    torch.testing.assert_close(partly, itm_loss(positive, negative[:1]))
