"""Tests of adapting model weights between stages."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from albef.models.albef import ALBEF
from albef.models.text import FusionEncoder
from albef.models.vision import resize_positions
from albef.weights import checkpoint
from tests.worlds import tiny_config

FUSION_LAYERS = 2


def _random(task: str, seed: int) -> ALBEF:
    """A model with weights that are nowhere equal, teacher included."""
    torch.manual_seed(seed)
    model = ALBEF(tiny_config().model, 64, task)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model


def _from(source: ALBEF, target: ALBEF, folder: Path) -> list[str]:
    checkpoint.save(source, folder / "model.pth")
    return checkpoint.initialize(target, folder / "model.pth")


def _equal(first: nn.Module, second: nn.Module) -> bool:
    left, right = first.state_dict(), second.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("task", ["text_assignment", "nlvr2"])
def test_two_images_double_every_fusion_layer(task: str, tmp_path: Path) -> None:
    source, target = _random("pretrain", 0), _random(task, 1)
    _from(source, target, tmp_path)
    encoders = [(source.student, target.student)]
    if target.architecture.teacher:
        encoders.append((source.teacher, target.teacher))
    for old, new in encoders:
        assert len(new.fusion.layers) == 2 * FUSION_LAYERS
        for layer in range(FUSION_LAYERS):
            assert _equal(new.fusion.layers[2 * layer], old.fusion.layers[layer])
            assert _equal(new.fusion.layers[2 * layer + 1], old.fusion.layers[layer])
        assert _equal(new.vision, old.vision)
        assert _equal(new.text, old.text)
    assert not _equal(target.student.fusion.layers[0], target.student.fusion.layers[2])


def test_nlvr2_starts_from_text_assignment_with_the_student_as_teacher(tmp_path: Path) -> None:
    """The stage before has no teacher; the official code leaves NLVR2's at random."""
    source, target = _random("text_assignment", 0), _random("nlvr2", 1)
    left = _from(source, target, tmp_path)
    assert _equal(target.student.fusion, source.student.fusion)
    assert _equal(target.teacher, target.student)
    assert left
    assert all(name.startswith("student.cls_head.") for name in left)


def test_the_answer_decoder_starts_as_fusion_encoder_and_word_head(tmp_path: Path) -> None:
    source, target = _random("pretrain", 0), _random("vqa", 1)
    left = _from(source, target, tmp_path)
    for old, new in ((source.student, target.student), (source.teacher, target.teacher)):
        assert _equal(new.decoder.embeddings, old.text.embeddings)
        assert _equal(new.decoder.head, old.mlm_head)
        for layer in range(FUSION_LAYERS):
            # Image and text encoders have the same width here, so cross-attention fits too.
            assert _equal(new.decoder.layers[layer], old.fusion.layers[layer])
    assert left == []


def test_a_part_that_no_other_stage_has_is_left_as_built(tmp_path: Path) -> None:
    target = _random("entailment", 1)
    head = copy.deepcopy(target.student.cls_head)
    left = _from(_random("pretrain", 0), target, tmp_path)
    assert _equal(target.student.cls_head, head)
    assert {name.split(".")[1] for name in left} == {"cls_head"}


def test_positions_are_interpolated_to_a_larger_image(tmp_path: Path) -> None:
    source = _random("pretrain", 0)
    torch.manual_seed(1)
    target = ALBEF(dataclasses.replace(tiny_config().model, image_size=64), 64, "retrieval")
    _from(source, target, tmp_path)
    for old, new in ((source.student, target.student), (source.teacher, target.teacher)):
        positions = old.vision.vit.pos_embed.detach()
        assert new.vision.vit.pos_embed.shape[1] == 17
        torch.testing.assert_close(new.vision.vit.pos_embed.detach(), resize_positions(positions, 17))
    assert target.eval().encode_image(torch.randn(1, 3, 64, 64))[0].shape == (1, 17, 32)


def _pairs_share(fusion: FusionEncoder) -> bool:
    maps = [layer.cross_attention.key_value for layer in fusion.layers]  # type: ignore[union-attr]
    own = len({id(part) for part in maps[::2]}) == FUSION_LAYERS
    return own and all(maps[n] is maps[n + 1] for n in range(0, len(maps), 2))


def test_shared_keys_and_values_stay_shared(tmp_path: Path) -> None:
    model = _random("nlvr2", 0)
    assert _pairs_share(model.student.fusion)
    assert _pairs_share(model.teacher.fusion)  # a deep copy of the student
    copied = copy.deepcopy(model)
    assert _pairs_share(copied.student.fusion)
    assert _pairs_share(copied.teacher.fusion)
    checkpoint.save(model, tmp_path / "model.pth")
    loaded, _ = checkpoint.load(tmp_path / "model.pth")
    assert _pairs_share(loaded.student.fusion)
    assert _pairs_share(loaded.teacher.fusion)
    assert _equal(loaded, model)


def test_a_shared_parameter_moves_once_a_step() -> None:
    model = _random("nlvr2", 0)
    before = copy.deepcopy(model.teacher)
    model.update_teacher()
    momentum = model.config.momentum
    own = dict(model.student.named_parameters())
    assert len(own) == len(list(model.teacher.parameters()))
    for name, old in before.named_parameters():
        expected = momentum * old + (1 - momentum) * own[name]
        torch.testing.assert_close(model.teacher.get_parameter(name), expected)
    assert _pairs_share(model.teacher.fusion)
    model.sync_teacher()
    assert _equal(model.teacher, model.student)
