"""Tests of the answer generation loss against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from albef.losses.answer import answer_loss, predicted

# Three answers of two questions: two tokens to predict, one, and three.
IDS = torch.tensor([[2, 5, 3, 0], [2, 3, 0, 0], [2, 4, 5, 3]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
WEIGHT = torch.tensor([0.7, 0.3, 0.5])
OWNER = (0, 0, 1, 2, 2, 2)
TARGET = (5, 3, 3, 4, 5, 3)


def _log_softmax(row: list[float]) -> list[float]:
    total = math.log(sum(math.exp(value) for value in row))
    return [value - total for value in row]


def _by_hand(logits: torch.Tensor, teacher: torch.Tensor, alpha: float) -> float:
    loss = 0.0
    for row, soft, target, owner in zip(logits.tolist(), teacher.tolist(), TARGET, OWNER, strict=True):
        log_p = _log_softmax(row)
        likely = -log_p[target]
        distilled = -sum(math.exp(t) * p for t, p in zip(_log_softmax(soft), log_p, strict=True))
        loss += float(WEIGHT[owner]) * ((1 - alpha) * likely + alpha * distilled)
    return loss / 2


def test_every_token_but_an_answers_last_predicts() -> None:
    assert predicted(MASK).tolist() == [
        [True, True, False, False],
        [True, False, False, False],
        [True, True, True, False],
    ]


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_equals_the_sum_by_hand(alpha: float) -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(6, 7), torch.randn(6, 7)
    loss = answer_loss(logits, IDS, MASK, WEIGHT, 2, teacher, alpha)
    assert float(loss) == pytest.approx(_by_hand(logits, teacher, alpha), rel=1e-5)
    if not alpha:
        torch.testing.assert_close(answer_loss(logits, IDS, MASK, WEIGHT, 2, None, 0.0), loss)


def test_the_teacher_gets_no_gradient() -> None:
    logits, teacher = torch.randn(6, 7, requires_grad=True), torch.randn(6, 7, requires_grad=True)
    answer_loss(logits, IDS, MASK, WEIGHT, 2, teacher, 0.4).backward()
    assert logits.grad is not None
    assert teacher.grad is None


def test_an_answer_of_no_weight_counts_for_nothing() -> None:
    logits = torch.randn(6, 7, requires_grad=True)
    answer_loss(logits, IDS, MASK, torch.tensor([0.7, 0.0, 0.5]), 2, None, 0.0).backward()
    assert logits.grad is not None
    assert logits.grad[2].abs().max() == 0
    assert logits.grad[1].abs().max() > 0
