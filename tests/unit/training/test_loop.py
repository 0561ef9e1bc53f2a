"""Tests of the training loop: precision, invalid losses and every task."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from albef.data.lists import Lists
from albef.data.tokenizer import Encoder
from albef.tasks import registry
from albef.tasks.base import TaskData, task_class
from albef.tasks.registry import UnknownTaskError
from albef.tracking.tracker import Tracker
from albef.training import state as run_state
from albef.training.loop import Loop
from albef.training.step import TrainingError
from albef.weights import checkpoint
from tests.devices import DEVICE, on_device
from tests.errors import refuses
from tests.worlds import color_world, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("loop") / "world")


def _loop(world: Path, out: Path, name: str, dropout: float = 0.1, **train: Any) -> Loop:
    config = tiny_config(**{"epochs": 1, "deterministic": True, **train})
    text = dataclasses.replace(config.model.text, dropout=dropout)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, text=text))
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    torch.manual_seed(0)
    task = task_class(name)(config, encoder)
    data = TaskData(Lists(world / "lists", world), encoder)
    tracker = Tracker("none", name, {}, {}, out)
    return Loop(task, data, out / "scratch", out, tracker, DEVICE)


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


def test_text_assignment_may_have_a_list_of_its_own(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    rows = json.loads((folder / "lists" / "pretrain.json").read_text())
    (folder / "lists" / "text_assignment.json").write_text(json.dumps(rows[:40]))
    assert len(_loop(world, tmp_path, "text_assignment").dataset) == len(rows)
    assert len(_loop(folder, tmp_path, "text_assignment").dataset) == 40
    assert len(_loop(folder, tmp_path, "pretrain").dataset) == len(rows)


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

    def until(parts: Sequence[dict[str, Tensor]]) -> None:
        if killed.progress.step == at:
            raise _Killed
        step(parts)

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


def test_a_file_stops_a_rank_that_is_left_alone(world: Path, tmp_path: Path) -> None:
    loop = _loop(world, tmp_path, "pretrain", epochs=3)
    loop.stop_file = tmp_path / "stop"
    loop.stop_file.touch()
    with pytest.raises(SystemExit):
        loop.run()
    state = run_state.load(tmp_path / "scratch" / "checkpoint.pt")
    assert state is not None
    assert state["step"] == 10


def test_bf16_follows_fp32(world: Path, tmp_path: Path) -> None:
    """Matrix products in bf16, losses and weights in fp32."""
    loops = [_loop(world, tmp_path / name, "pretrain", precision=name) for name in ("fp32", "bf16")]
    metrics = [loop.run() for loop in loops]
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], rel=0.05)
    assert metrics[0]["loss"] != metrics[1]["loss"]
    assert {p.dtype for p in loops[1].task.parameters()} == {torch.float32}


def test_sigterm_at_the_end_of_an_epoch_leaves_its_validation_to_the_next_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _loop(world, tmp_path / "whole", "entailment", epochs=2).run()
    stopped = _loop(world, tmp_path / "stopped", "entailment", epochs=2)
    step = stopped.train_step

    def until(parts: Sequence[dict[str, Tensor]]) -> None:
        step(parts)
        if stopped.progress.step == stopped.steps_per_epoch:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(stopped, "train_step", until)
    with pytest.raises(SystemExit) as exit:
        stopped.run()
    assert exit.value.code == 128 + signal.SIGTERM
    assert stopped.progress.validation == []
    metrics = _loop(world, tmp_path / "stopped", "entailment", epochs=2).run()
    for file in ("history.csv", "metrics.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "stopped" / file).read_bytes()
    with (tmp_path / "stopped" / "history.csv").open() as history:
        epochs = [float(row["val_accuracy"]) for row in csv.DictReader(history) if row["val_accuracy"]]
    assert len(epochs) == 2
    assert max(epochs) == metrics["val_accuracy"]


def test_a_kill_during_validation_repeats_the_validation_only(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _loop(world, tmp_path / "whole", "entailment").run()
    killed = _loop(world, tmp_path / "killed", "entailment")

    def kill(data: TaskData) -> dict[str, float]:
        killed.writer.wait()
        raise _Killed

    monkeypatch.setattr(killed.task, "validate", kill)
    with pytest.raises(_Killed):
        killed.run()
    again = _loop(world, tmp_path / "killed", "entailment")
    monkeypatch.setattr(again, "train_step", None)
    again.run()
    assert (tmp_path / "whole" / "metrics.json").read_bytes() == (tmp_path / "killed" / "metrics.json").read_bytes()


def test_parts_of_a_batch_are_the_batch(world: Path, tmp_path: Path) -> None:
    """Without losses over the batch, parts change results by rounding only."""
    weights = []
    for name, rows in (("whole", None), ("parts", 2)):
        loop = _loop(world, tmp_path / name, "entailment", device_batch_size=rows, dropout=0.0)
        loop.run()
        weights.append(checkpoint.read(tmp_path / name / "model.pth")[0])
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-3, atol=1e-5)


def test_activation_checkpointing_changes_nothing(world: Path, tmp_path: Path) -> None:
    weights = []
    for again in (False, True):
        loop = _loop(world, tmp_path / str(again), "pretrain", activation_checkpointing=again)
        assert loop.task.model.student.vision.vit.grad_checkpointing is again
        loop.run()
        weights.append(checkpoint.read(tmp_path / str(again) / "model.pth")[0])
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-5, atol=1e-6)


def test_the_queue_gets_the_parts_of_a_batch_at_its_end(world: Path, tmp_path: Path) -> None:
    loop = _loop(world, tmp_path, "pretrain", device_batch_size=2)
    queue = loop.task.model.queue
    seen: list[int] = []
    forward = loop.task.forward
    loop.task.forward = lambda *args: (seen.append(int(queue.position)), forward(*args))[1]  # type: ignore[method-assign]
    batches = map(on_device, loop.loader.batches(0))
    loop.train_step([next(batches) for _ in range(4)])
    assert seen == [0, 0, 0, 0]
    assert int(queue.position) == 8


@pytest.mark.parametrize("place", ["out", "scratch"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(
    world: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    loop = _loop(world, tmp_path / "out", "entailment")
    monkeypatch.setattr(loop, "out" if place == "out" else "work_dir", tmp_path / "file" / "folder")
    monkeypatch.setattr(loop, "train_step", None)
    with refuses(TrainingError, tmp_path / "file" / "folder"):
        loop.run()


def test_intervals_longer_than_the_run_are_said(world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop = _loop(world, tmp_path, "entailment", log_every=1000)
    metrics = loop.run()
    assert "log_every is 1000" in caplog.text
    (row,) = loop.progress.history  # of the whole run
    assert row["step"] == loop.progress.step
    assert metrics["loss"] == row["loss"]


def _break(loop: Loop, monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the loss of some steps not a number."""
    forward = loop.task.forward

    def broken(batch: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
        losses = forward(batch, alpha)
        return {**losses, "itm_loss": losses["itm_loss"] * (float("nan") if loop.progress.step in steps else 1.0)}

    monkeypatch.setattr(loop.task, "forward", broken)


@pytest.mark.parametrize("name", ["pretrain", "entailment"])
def test_a_step_that_is_not_finite_changes_nothing(world: Path, tmp_path: Path, name: str) -> None:
    loop = _loop(world, tmp_path, name)
    batches = loop.loader.batches(0)
    for number, batch in enumerate(batches):
        moved = on_device(batch)
        if number == 2:
            before = {key: value.clone() for key, value in loop.task.state_dict().items()}
            with torch.no_grad():  # an image that no encoder survives
                moved["image"] = moved["image"].float()
                moved["image"][0, 0, 0, 0] = float("nan")
        loop.train_step([moved])
        if number == 2:
            break
    after = loop.task.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key for key in changed if not key.startswith("model.teacher")} == set()
    assert all(value.isfinite().all() for value in after.values())
    means, skipped = loop.step.read()
    assert skipped == 1
    assert all(math.isfinite(value) for value in means.values())


def test_too_many_steps_in_a_row_that_are_not_finite_end_the_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = _loop(world, tmp_path, "pretrain", epochs=3)
    _break(loop, monkeypatch, set(range(5, 40)))
    with refuses(TrainingError, "pretrain", "max_skipped_steps", 10):
        loop.run()
    assert not (tmp_path / "model.pth").exists()
    state = run_state.load(tmp_path / "scratch" / "checkpoint.pt")
    assert state is not None
    assert all(value.isfinite().all() for value in state["task"].values())


def test_a_few_such_steps_are_counted(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = _loop(world, tmp_path, "pretrain")
    _break(loop, monkeypatch, {1, 2, 7})
    loop.run()
    assert loop.progress.history[-1]["skipped_steps"] == 3


def test_an_unknown_task_is_refused() -> None:
    with refuses(UnknownTaskError, "'captioning'", "pretrain", "text_assignment", "retrieval"):
        task_class("captioning")
