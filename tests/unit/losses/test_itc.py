"""Tests of the ITC loss against its textbook form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.losses.itc import itc_loss, positives


def _features(batch: int, queue: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [batch] * 4 + [queue] * 2
    return [F.normalize(torch.randn(n, 8, generator=generator, dtype=torch.float64), dim=1) for n in sizes]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.floats(0, 1), st.integers(0, 1000))
def test_equals_dense_soft_targets(batch: int, queue: int, alpha: float, seed: int) -> None:
    image, text, image_m, text_m, image_queue, text_queue = _features(batch, queue, seed)
    result = itc_loss(image, text, image_m, text_m, image_queue, text_queue, torch.tensor(0.2), alpha)
    losses = []
    for query, query_m, keys in (
        (image, image_m, torch.cat([text_m, text_queue])),
        (text, text_m, torch.cat([image_m, image_queue])),
    ):
        hard = torch.eye(batch, batch + queue, dtype=torch.float64)
        target = alpha * F.softmax(query_m @ keys.T / 0.2, dim=1) + (1 - alpha) * hard
        losses.append(-(F.log_softmax(query @ keys.T / 0.2, dim=1) * target).sum(1).mean())
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(result.loss.double(), expected, rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.lists(st.integers(-100, 4), max_size=8))
def test_positives_share_the_mass_among_the_same_image(ids: list[int], queue: list[int]) -> None:
    target = positives(torch.tensor(ids), torch.tensor([*ids, *queue]))
    torch.testing.assert_close(target.sum(1), torch.ones(len(ids)))
    for row, own in enumerate(ids):
        for column, other in enumerate([*ids, *queue]):
            assert (target[row, column] > 0) == (own == other)


def test_no_gradient_reaches_the_teacher() -> None:
    features = _features(3, 4, 0)
    image, text = features[0].requires_grad_(), features[1].requires_grad_()
    itc_loss(image, text, *features[2:], torch.tensor(0.1), 0.4).loss.backward()
    assert image.grad is not None
    assert text.grad is not None
    assert all(f.grad is None for f in features[2:])
