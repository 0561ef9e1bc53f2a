"""The loop beyond resuming: precision, a loss that is no number, and every task through the same code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from albef import tasks
from albef.data.tokenizer import Encoder
from albef.tasks.base import TaskData
from albef.training.loop import Loop, TrainingError
from albef.training.tracking import NoTracker
from tests.worlds import colour_world, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_world(tmp_path_factory.mktemp("loop") / "world")


def _loop(world: Path, out: Path, name: str, precision: Literal["fp32", "bf16"] = "fp32") -> Loop:
    config = tiny_config(epochs=1, precision=precision)
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    torch.manual_seed(0)
    task = tasks.get(name)(config, encoder)
    data = TaskData(world / "lists", world, encoder)
    return Loop(task, data, out / "scratch", out, NoTracker(), torch.device("cpu"))


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_trains(world: Path, tmp_path: Path, name: str) -> None:
    metrics = _loop(world, tmp_path, name).run()
    assert {"loss", "itc_loss", "itm_loss"} <= metrics.keys()
    assert (tmp_path / "model.pth").is_file()
    assert ("val_r_mean" in metrics) == (name == "retrieval")


def test_bf16_follows_fp32(world: Path, tmp_path: Path) -> None:
    """Matrix products in bf16, losses and weights in fp32."""
    loops = [_loop(world, tmp_path / precision, "pretrain", precision) for precision in ("fp32", "bf16")]  # type: ignore[arg-type]
    metrics = [loop.run() for loop in loops]
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], rel=0.05)
    assert metrics[0]["loss"] != metrics[1]["loss"]
    assert {p.dtype for p in loops[1].task.parameters()} == {torch.float32}


def test_a_loss_that_is_no_number_stops_the_run_by_name(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = _loop(world, tmp_path, "pretrain")
    forward = loop.task.forward

    def broken(batch: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
        losses = forward(batch, alpha)
        return {**losses, "itm_loss": losses["itm_loss"] * float("nan")}

    monkeypatch.setattr(loop.task, "forward", broken)
    with pytest.raises(TrainingError, match="_loss is nan near step 2"):
        loop.run()
    assert not (tmp_path / "model.pth").exists()


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="known are pretrain, retrieval"):
        tasks.get("captioning")
