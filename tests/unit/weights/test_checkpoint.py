"""Tests of model files and the official checkpoint layout."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from albef.models.albef import ALBEF
from albef.models.queue import NO_ID
from albef.tasks import registry
from albef.weights import checkpoint, convert
from albef.weights.official import CheckpointError, infer_task, load_official, read_official, to_official
from tests.errors import refuses
from tests.worlds import tiny_config


def _model(seed: int = 0, task: str = "pretrain") -> ALBEF:
    torch.manual_seed(seed)
    model = ALBEF(tiny_config().model, 64, task)
    if model.architecture.align:
        ids = None if model.architecture.mlm else torch.arange(3)  # pretraining knows none
        model.queue.enqueue(torch.randn(3, 16), torch.randn(3, 16), ids)
    with torch.no_grad():
        for parameter in model.teacher.parameters() if model.architecture.teacher else []:
            parameter.add_(torch.randn_like(parameter))
    return model


def _different(a: ALBEF, b: ALBEF) -> list[str]:
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    return [name for name in left if not torch.equal(left[name], right[name])]


@pytest.mark.parametrize("task", registry.names())
def test_official_round_trip_is_exact(task: str) -> None:
    model = _model(task=task)
    official = to_official(model.state_dict(), model.config.text.layers, model.task)
    assert infer_task(official) == ("retrieval" if task == "grounding" else task)
    other = _model(seed=1, task=task)
    report = load_official(other, official)
    assert (report.missing, report.unexpected) == ([], [])
    assert _different(model, other) == []


def test_student_only_gives_the_teacher_the_students_weights(tmp_path: Path) -> None:
    model = _model()
    checkpoint.save(model, tmp_path / "model.pth")
    convert.export_official(tmp_path, tmp_path / "official.pth", student_only=True)
    state = read_official(tmp_path / "official.pth")
    assert not any("_m." in name or "queue" in name for name in state)
    other = _model(seed=1)
    report = load_official(other, {**state, "stranger": torch.zeros(1)})
    assert report.unexpected == ["stranger"]
    assert torch.equal(other.teacher.vision_proj.weight, model.student.vision_proj.weight)


def test_a_queue_enters_without_ids() -> None:
    model = _model(task="retrieval")
    official = to_official(model.state_dict(), model.config.text.layers, model.task)
    del official["idx_queue"]
    other = _model(seed=1, task="retrieval")
    assert load_official(other, official).missing == ["idx_queue"]
    assert torch.equal(other.queue.image, model.queue.image)
    assert other.queue.ids.unique().tolist() == [NO_ID]


def test_save_and_load(tmp_path: Path) -> None:
    model = _model(task="retrieval")
    checkpoint.save(model, tmp_path / "model.pth")
    loaded, meta = checkpoint.load(tmp_path / "model.pth")
    assert _different(model, loaded) == []
    assert (meta.task, meta.vocab_size) == ("retrieval", 64)
    assert not loaded.training


def test_initialize_keeps_what_the_file_cannot_tell(tmp_path: Path) -> None:
    checkpoint.save(_model(), tmp_path / "model.pth")
    target = _model(seed=1, task="retrieval")
    left = checkpoint.initialize(target, tmp_path / "model.pth")
    assert left == ["queue.ids"]
    assert torch.equal(target.student.vision_proj.weight, _model().student.vision_proj.weight)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"model": print})])
def test_foreign_files_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.pth"
    path.write_bytes(content)
    for read in (read_official, checkpoint.load):
        with refuses(CheckpointError, path):
            read(path)


def test_a_missing_tensor_is_named() -> None:
    model = _model()
    official = to_official(model.state_dict(), model.config.text.layers, model.task)
    del official["text_encoder.bert.encoder.layer.1.crossattention.self.key.weight"]
    with refuses(CheckpointError, "layer.1.crossattention.self.key.weight"):
        load_official(_model(seed=1), official)
