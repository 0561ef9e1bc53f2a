"""Tests of token masking and the MLM loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from albef.losses.distill import ramped_alpha
from albef.losses.mlm import IGNORE, mask_tokens, mlm_loss

MASK, VOCAB = 4, 1000


def test_masking_shares() -> None:
    torch.manual_seed(0)
    ids = torch.randint(10, VOCAB, (400, 50))
    keep = torch.zeros_like(ids, dtype=torch.bool)
    keep[:, 0] = True
    before = ids.clone()
    masked, labels = mask_tokens(ids, keep, MASK, VOCAB, 0.15)
    chosen = labels != IGNORE
    assert torch.equal(ids, before)
    assert not chosen[:, 0].any()
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert torch.equal(labels[chosen], ids[chosen])
    assert chosen[:, 1:].float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert (masked[chosen] == MASK).float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (masked[chosen] == ids[chosen]).float().mean().item() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_equals_the_dense_loss(alpha: float) -> None:
    """Gathering the masked rows before the head gives the loss of scoring every token."""
    torch.manual_seed(1)
    logits, teacher = torch.randn(3, 7, 20), torch.randn(3, 7, 20)
    labels = torch.where(torch.rand(3, 7) < 0.3, torch.randint(20, (3, 7)), IGNORE)
    rows = labels != IGNORE
    hard = F.cross_entropy(logits.view(-1, 20), labels.view(-1))
    soft = -(F.log_softmax(logits, -1) * F.softmax(teacher, -1)).sum(-1)[rows].mean()
    expected = (1 - alpha) * hard + alpha * soft
    torch.testing.assert_close(mlm_loss(logits[rows], labels[rows], teacher[rows], alpha), expected)


def test_nothing_masked_is_zero_not_nan() -> None:
    empty = torch.zeros(0, 20, requires_grad=True)
    loss = mlm_loss(empty, torch.zeros(0, dtype=torch.long), torch.zeros(0, 20), 0.4)
    loss.backward()
    assert loss.item() == 0


def test_alpha_ramps_then_stays() -> None:
    assert [ramped_alpha(0.4, s, 10) for s in (0, 5, 10, 25)] == pytest.approx([0, 0.2, 0.4, 0.4])
    assert ramped_alpha(0.4, 0, 0) == 0.4
