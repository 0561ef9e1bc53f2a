"""Tests of the training loop: precision, invalid losses and every task."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from albef.data.tokenizer import Encoder
from albef.tasks import registry
from albef.tasks.base import TaskData, task_class
from albef.tasks.registry import UnknownTaskError
from albef.tracking.tracker import Tracker
from albef.training.loop import Loop, TrainingError
from albef.weights import checkpoint
from tests.errors import refuses
from tests.worlds import color_world, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("loop") / "world")


def _loop(world: Path, out: Path, name: str, precision: Literal["fp32", "bf16"] = "fp32", epochs: int = 1) -> Loop:
    config = tiny_config(epochs=epochs, precision=precision)
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    torch.manual_seed(0)
    task = task_class(name)(config, encoder)
    data = TaskData(world / "lists", world, encoder)
    tracker = Tracker("none", name, {}, {}, out)
    return Loop(task, data, out / "scratch", out, tracker, torch.device("cpu"))


LOSSES = {
    "pretrain": {"itc_loss", "itm_loss", "mlm_loss"},
    "text_assignment": {"ta_loss"},
    "retrieval": {"itc_loss", "itm_loss"},
    "vqa": {"answer_loss"},
    "entailment": {"cls_loss"},
    "nlvr2": {"cls_loss"},
    "grounding": {"itc_loss", "itm_loss"},
}


@pytest.mark.parametrize("name", registry.names())
def test_every_task_trains(world: Path, tmp_path: Path, name: str) -> None:
    metrics = _loop(world, tmp_path, name).run()
    assert {key for key in metrics if key.endswith("_loss")} == LOSSES[name]
    assert metrics["loss"] == pytest.approx(sum(metrics[key] for key in LOSSES[name]), rel=1e-4)
    selection = task_class(name).selection
    assert {key for key in metrics if key.startswith("val_")} >= ({f"val_{selection}"} if selection else set())
    model, meta = checkpoint.load(tmp_path / "model.pth")
    assert meta.task == model.task == name


class _Killed(BaseException):
    """Stand-in for a signal that cannot be caught."""


@pytest.mark.parametrize("name", registry.names())
def test_every_task_resumes_to_the_bit(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Stop in the second of two epochs, shortly after a checkpoint, and resume."""
    _loop(world, tmp_path / "whole", name, epochs=2).run()
    killed = _loop(world, tmp_path / "killed", name, epochs=2)
    at = killed.steps_per_epoch + 4
    at += at % killed.config.checkpoint_every == 0
    step = killed.train_step

    def until(batch: dict[str, Tensor]) -> None:
        if killed.progress.step == at:
            raise _Killed
        step(batch)

    monkeypatch.setattr(killed, "train_step", until)
    with pytest.raises(_Killed):
        killed.run()
    torch.rand(7)  # a new process stands elsewhere in its random numbers
    again = _loop(world, tmp_path / "killed", name, epochs=2)
    again.run()
    whole, resumed = (checkpoint.read(tmp_path / out / "model.pth")[0] for out in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    for file in ("history.csv", "metrics.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()


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
    with refuses(TrainingError, "pretrain", "nan", "step 2"):
        loop.run()
    assert not (tmp_path / "model.pth").exists()


def test_an_unknown_task_is_refused() -> None:
    with refuses(UnknownTaskError, "'captioning'", "pretrain", "text_assignment", "retrieval"):
        task_class("captioning")
