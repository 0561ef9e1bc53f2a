"""Tests of the classification loss with momentum distillation."""

from __future__ import annotations

import math

import pytest
import torch

from albef.losses.classify import classification_loss


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_equals_the_sum_by_hand(alpha: float) -> None:
    # Softmax (1/2, 1/4, 1/4) and (1/5, 3/5, 1/5); the teacher says (1/3, 1/3, 1/3) and (0, 1, 0).
    logits = torch.tensor([[2.0, 1.0, 1.0], [1.0, 3.0, 1.0]]).log()
    teacher = torch.tensor([[1.0, 1.0, 1.0], [1e-30, 1.0, 1e-30]]).log()
    hard = -(math.log(1 / 4) + math.log(3 / 5)) / 2
    soft = -((math.log(1 / 2) + 2 * math.log(1 / 4)) / 3 + math.log(3 / 5)) / 2
    loss = classification_loss(logits, torch.tensor([2, 1]), teacher, alpha)
    assert float(loss) == pytest.approx((1 - alpha) * hard + alpha * soft, rel=1e-5)


def test_without_a_teacher_the_label_alone_counts() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    torch.testing.assert_close(
        classification_loss(logits, labels, None, 0.4), torch.nn.functional.cross_entropy(logits, labels)
    )
