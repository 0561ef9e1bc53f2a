"""Training and export with named encoders: a random DINOv2 and a real MiniLM."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from albef.config import Config, InitConfig, TokenizerConfig, VisionConfig
from albef.data import tokenizer
from albef.data.lists import Lists
from albef.data.tokenizer import Encoder
from albef.export import onnx
from albef.models.albef import ALBEF
from albef.tasks.base import TaskData, task_class
from albef.tracking.tracker import Tracker
from albef.training.loop import Loop
from albef.weights import checkpoint, init_weights
from tests.minilm import minilm
from tests.worlds import color_world, tiny_config


def named_config() -> Config:
    """Two steps of pretraining: 8 images of 2 x 2 patches, batches of 4."""
    base = tiny_config(epochs=1, batch_size=4, log_every=1, checkpoint_every=1)
    adamw = dataclasses.replace(base.pretrain.optim, kind="adamw", lr=1e-4)  # Muon takes seconds a step at this width
    vision = VisionConfig(name="vit_small_patch14_dinov2", depth=1, drop_path=0.1)
    sizes = dict.fromkeys(("width", "layers", "fusion_layers", "heads", "ffn", "max_positions"))
    text = dataclasses.replace(base.model.text, **sizes, name=str(minilm()))
    model = dataclasses.replace(base.model, image_size=28, patch_size=None, vision=vision, text=text, queue_size=8)
    return dataclasses.replace(
        base,
        model=model,
        pretrain=dataclasses.replace(base.pretrain, optim=adamw),
        tokenizer=TokenizerConfig(kind="bert", vocab_size=1, source=str(minilm())),
        init=InitConfig(vision=None, text=str(minilm())),
        export=dataclasses.replace(base.export, parity_samples=1),
    )


class _Killed(BaseException):
    """Stand-in for a signal that cannot be caught."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = color_world(tmp_path_factory.mktemp("named") / "world", images=8)
    tokenizer.run(named_config().tokenizer, folder / "lists", folder / "tokenizer")
    return folder


def _loop(world: Path, out: Path) -> Loop:
    config, encoder = named_config(), Encoder.from_file(world / "tokenizer/tokenizer.json")
    torch.manual_seed(0)
    task = task_class("pretrain")(config, encoder)
    init_weights.initialize(task.model, config)
    data = TaskData(Lists(world / "lists", world), encoder)
    return Loop(task, data, out / "scratch", out, Tracker("none", "pretrain", {}, {}, out), torch.device("cpu"))


def test_pretrained_resumed_and_exported(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = _loop(world, tmp_path)
    step = killed.train_step

    def until(parts: Sequence[dict[str, Tensor]]) -> None:
        if killed.progress.step == 1:
            raise _Killed
        step(parts)

    monkeypatch.setattr(killed, "train_step", until)
    with pytest.raises(_Killed):
        killed.run()
    metrics = _loop(world, tmp_path).run()
    assert math.isfinite(metrics["loss"])
    pretrained, meta = checkpoint.load(tmp_path / "model.pth")
    # The file describes its model without the names being looked up.
    assert (meta.config.patch_size, meta.config.vision.width, meta.config.vision.heads) == (14, 384, 6)
    assert (meta.config.text.width, meta.config.text.layers, meta.config.text.fusion_layers) == (384, 3, 3)

    config = named_config()
    model = ALBEF(config.model, pretrained.vocab_size, "retrieval")
    assert checkpoint.initialize(model, tmp_path / "model.pth") == ["queue.ids"]
    checkpoint.save(model, tmp_path / "retrieval/model.pth")
    onnx.run(config, "retrieval", tmp_path / "retrieval", world / "tokenizer", tmp_path / "export")
    report = json.loads((tmp_path / "export/parity.json").read_text())
    assert report["max_abs"] <= report["tolerance"]
