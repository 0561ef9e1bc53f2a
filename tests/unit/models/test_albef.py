"""Tests of the ALBEF model: shared layers, teacher and queue."""

from __future__ import annotations

import pytest
import torch

from albef.models.albef import ALBEF
from albef.models.queue import NO_ID, FeatureQueue
from albef.models.vision import resize_positions
from tests.errors import refuses
from tests.worlds import tiny_config


@pytest.fixture
def model() -> ALBEF:
    torch.manual_seed(0)
    return ALBEF(tiny_config().model, 64).eval()


def test_shared_keys_values_equal_a_projection_per_pair(model: ALBEF) -> None:
    images, _ = model.encode_image(torch.randn(3, 3, 32, 32))
    ids, mask = torch.randint(5, 64, (4, 6)), torch.ones(4, 6, dtype=torch.long)
    mask[1, 4:] = 0
    texts, _ = model.encode_text(ids, mask)
    rows = torch.tensor([2, 0, 0, 1])
    fusion = model.student.fusion
    shared = fusion(texts, mask, fusion.keys_values(images), image_rows=rows)
    repeated = fusion(texts, mask, fusion.keys_values(images[rows]))
    torch.testing.assert_close(shared, repeated)
    only = fusion(texts, mask, fusion.keys_values(images), image_rows=rows, cls_only=True)
    torch.testing.assert_close(only, repeated[:, :1])


def test_padding_changes_nothing(model: ALBEF) -> None:
    ids, mask = torch.randint(5, 64, (2, 6)), torch.ones(2, 6, dtype=torch.long)
    padded = torch.nn.functional.pad(ids, (0, 3)), torch.nn.functional.pad(mask, (0, 3))
    torch.testing.assert_close(model.encode_text(*padded)[1], model.encode_text(ids, mask)[1])


def test_teacher_follows_and_is_never_trained(model: ALBEF) -> None:
    model.train()
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1.0)
    before = model.teacher.vision_proj.weight.clone()
    model.update_teacher()
    momentum = model.config.momentum
    expected = momentum * before + (1 - momentum) * model.student.vision_proj.weight
    torch.testing.assert_close(model.teacher.vision_proj.weight, expected)
    assert not model.teacher.training
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_queue_wraps_and_keeps_its_position() -> None:
    queue = FeatureQueue(5, 2)
    for start in (0, 3, 6):
        feats = torch.arange(start, start + 3.0)[:, None].expand(3, 2)
        queue.enqueue(feats, -feats, torch.arange(start, start + 3))
    assert queue.ids.tolist() == [5, 6, 7, 8, 4]
    assert queue.image[:, 0].tolist() == [5, 6, 7, 8, 4]
    copy = FeatureQueue(5, 2)
    copy.load_state_dict(queue.state_dict())
    assert copy.position == queue.position == 4
    queue.enqueue(torch.zeros(1, 2), torch.zeros(1, 2))
    assert queue.ids[4] == NO_ID
    with refuses(ValueError, "model.queue_size", 5, 6):
        queue.enqueue(torch.zeros(6, 2), torch.zeros(6, 2))


def test_position_embeddings_resize() -> None:
    positions = torch.randn(1, 17, 8)
    bigger = resize_positions(positions, 65)
    assert bigger.shape == (1, 65, 8)
    assert torch.equal(bigger[:, 0], positions[:, 0])
    assert resize_positions(positions, 17) is positions
    with refuses(ValueError, 17, 60):
        resize_positions(positions, 60)
