"""The paper's presets in bf16 at toy width, from training to export."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from albef import presets
from albef.config import Config, from_dict, overlay
from albef.export import onnx
from albef.tasks import evaluation, registry
from albef.tasks.base import task_class
from albef.training import run
from tests.worlds import color_world

MODEL = {
    "image_size": 32,
    "projection": 16,
    "queue_size": 32,
    "vision": {"width": 32, "depth": 2, "heads": 2},
    "text": {"width": 32, "layers": 1, "fusion_layers": 3, "decoder_layers": 1, "heads": 2, "ffn": 64},
}
TRAIN = {"epochs": 1, "batch_size": 8, "device_batch_size": 4, "num_workers": 0, "log_every": 2, "image_size": 48}


def _toy(name: str) -> Config:
    """Return a preset with a tiny model and short training."""
    config = from_dict(YAML(typ="safe").load(presets.content(name)), Config, name)
    tasks = {task.name: {"train": TRAIN} for task in registry.fine_tuned() if getattr(config.tasks, task.name)}
    values: dict[str, Any] = {
        "model": MODEL,
        "pretrain": {**TRAIN, "image_size": None},
        "text_assignment": TRAIN | {"image_size": None},
        "tasks": tasks,
        "distributed": {"world_size": 1},
        "export": {"parity_samples": 3},
    }
    return dataclasses.replace(overlay(config, values), init=None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("presets") / "world")


def test_presets_differ_in_their_data_only() -> None:
    """The test below runs one of them for all."""
    for name in presets.names():
        base = _toy("paper-4m-flickr" if name.endswith("flickr") else "paper-4m")
        ours = _toy(name)
        files = ours.prepare.lists
        assert dataclasses.replace(ours, prepare=dataclasses.replace(ours.prepare, lists=base.prepare.lists)) == base
        assert files is not None


def test_every_task_from_training_to_export_in_bf16(world: Path, tmp_path: Path) -> None:
    config = _toy("paper-4m")
    stages = ["pretrain", "text_assignment", *(task.name for task in registry.fine_tuned())]
    inputs = (world / "lists", world, world / "tokenizer")
    for task in stages:
        assert task_class(task).train_config(config).precision == "bf16"
        start = (
            None
            if task == "pretrain"
            else "pretrain"
            if task == "text_assignment"
            else getattr(config.tasks, task).init
        )
        init = None if start is None else tmp_path / start
        out = tmp_path / task
        metrics = run.run(config, task, *inputs, out, init, tmp_path / "scratch", "none")
        assert math.isfinite(metrics["loss"])
        if not registry.spec(task).fine_tuning:
            continue
        assert any(name.startswith("val_") for name in metrics), task
        evaluation.run(config, task, out, *inputs, tmp_path / "evaluate" / task)
        results = json.loads((tmp_path / "evaluate" / task / "metrics.json").read_text())
        assert all(math.isfinite(value) for value in results.values()), task
    onnx.run(config, "entailment", tmp_path / "entailment", world / "tokenizer", tmp_path / "export")
    assert list((tmp_path / "export").glob("*.onnx"))


def test_flickr_retrieval_in_bf16(world: Path, tmp_path: Path) -> None:
    config = _toy("paper-4m-flickr")
    metrics = run.run(
        config,
        "retrieval",
        world / "lists",
        world,
        world / "tokenizer",
        tmp_path / "out",
        None,
        tmp_path / "scratch",
        "none",
    )
    assert metrics["val_r_mean"] >= 0
