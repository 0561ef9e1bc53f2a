"""Tests of trainings with bad rows, and of weights that are not finite."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from albef.data.faults import LIST, BadRowsError
from albef.data.images import ImageError
from albef.data.lists import Lists
from albef.data.tokenizer import Encoder
from albef.tasks import registry
from albef.tasks.base import TaskData, task_class
from albef.tracking.tracker import Tracker
from albef.training import state as run_state
from albef.training.loop import Loop
from albef.training.step import TrainingError
from albef.weights import checkpoint
from tests.devices import DEVICE
from tests.errors import refuses
from tests.worlds import color_world, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("faults") / "world")


def _loop(world: Path, out: Path, name: str, **train: Any) -> Loop:
    config = tiny_config(**{"epochs": 1, "deterministic": True, **train})
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    torch.manual_seed(0)
    task = task_class(name)(config, encoder)
    data = TaskData(Lists(world / "lists", world), encoder)
    return Loop(task, data, out / "scratch", out, Tracker("none", name, {}, {}, out), DEVICE)


def _weights(out: Path) -> dict[str, Tensor]:
    return dict(checkpoint.read(out / "model.pth")[0])


def _after(loop: Loop, patch: pytest.MonkeyPatch, action: Callable[[int], None]) -> None:
    """Call a function after each step, with its number."""
    step = loop.train_step

    def trained(parts: Sequence[dict[str, Tensor]]) -> None:
        step(parts)
        action(loop.progress.step)

    patch.setattr(loop, "train_step", trained)


@pytest.fixture(scope="module")
def damaged(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with a missing and a truncated image, in training only."""
    folder = tmp_path_factory.mktemp("damaged") / "world"
    shutil.copytree(world, folder)
    (folder / "images" / "30.png").unlink()
    path = folder / "images" / "50.png"
    path.write_bytes(path.read_bytes()[:60])
    return folder


class _Killed(BaseException):
    """Stand-in for a signal that cannot be caught."""


@pytest.mark.parametrize("share_images", [False, True])
def test_counts_and_weights_do_not_depend_on_workers_or_kills(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share_images: bool
) -> None:
    """Faults of batches loaded ahead, or of steps that are repeated, do not count twice."""
    change = {"epochs": 2, "max_bad_share": 0.05}
    name = "entailment" if share_images else "pretrain"
    _share(monkeypatch, share_images)
    _loop(damaged, tmp_path / "whole", name, **change).run()
    killed = _loop(damaged, tmp_path / "killed", name, num_workers=2, **change)

    def kill(step: int) -> None:
        if step == killed.steps_per_epoch + 5:
            killed.writer.wait()
            raise _Killed

    _after(killed, monkeypatch, kill)
    with pytest.raises(_Killed):
        killed.run()
    assert not multiprocessing.active_children()
    again = _loop(damaged, tmp_path / "killed", name, num_workers=2, **change)
    metrics = again.run()
    assert not multiprocessing.active_children()
    assert metrics["skipped_rows"] == 4  # two rows in each of two epochs
    assert again.progress.history[-1]["skipped_rows"] == 4
    for file in ("history.csv", "metrics.json", LIST):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()
    whole, resumed = (_weights(tmp_path / out) for out in ("whole", "killed"))
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    rows = [json.loads(line) for line in (tmp_path / "whole" / LIST).read_text().splitlines()]
    assert [(row["row"], row["images"]) for row in rows] == [(30, ["images/30.png"]), (50, ["images/50.png"])]
    assert "cannot read" in rows[0]["reason"]
    assert "not a readable image" in rows[1]["reason"]


def _share(patch: pytest.MonkeyPatch, share_images: bool) -> None:
    """Let entailment share images."""
    kind = task_class("entailment")
    original = kind.train_config
    patch.setattr(
        kind, "train_config", classmethod(lambda _, c: dataclasses.replace(original(c), share_images=share_images))
    )


def test_a_share_above_the_limit_ends_the_run_at_a_checkpoint(damaged: Path, tmp_path: Path) -> None:
    with refuses(BadRowsError, "pretrain", "2 of 64 rows", "max_bad_share (0.01)", tmp_path / LIST):
        _loop(damaged, tmp_path, "pretrain", log_every=3).run()
    assert not (tmp_path / "model.pth").exists()
    assert len((tmp_path / LIST).read_text().splitlines()) == 2
    again = _loop(damaged, tmp_path, "pretrain", log_every=3, max_bad_share=0.05)
    again.train_step = None  # type: ignore[assignment,method-assign]  # all steps are in the checkpoint
    assert again.run()["skipped_rows"] == 2


def test_the_end_of_a_run_says_what_was_skipped(
    damaged: Path, world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _loop(damaged, tmp_path, "pretrain", max_bad_share=0.05).run()
    assert "pretrain: 2 of 64 rows were malformed or without a readable image" in caplog.text
    assert str(tmp_path / LIST) in caplog.text
    caplog.clear()
    _loop(world, tmp_path, "pretrain").run()
    assert "rows" not in caplog.text
    assert not (tmp_path / LIST).exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_go_missing_end_the_run_at_once(damaged: Path, tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "world"
    shutil.copytree(damaged, folder)
    shutil.rmtree(folder / "images")
    with refuses(BadRowsError, "all 8 rows of a batch", tmp_path / LIST) as caught:
        _loop(folder, tmp_path, "retrieval", num_workers=workers).run()
    assert "\n" not in str(caught.value)
    assert len((tmp_path / LIST).read_text().splitlines()) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_names_an_image_that_cannot_be_read(world: Path, tmp_path: Path, workers: int) -> None:
    """Metrics over fewer rows could not be compared."""
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    shutil.copy(folder / "images" / "7.png", folder / "images" / "val.png")
    path = folder / "lists" / "retrieval_val.json"
    path.write_text(path.read_text().replace("images/7.png", "images/val.png"))
    (folder / "images" / "val.png").write_bytes(b"no image")
    with refuses(ImageError, "images/val.png") as caught:
        _loop(folder, tmp_path, "retrieval", num_workers=workers).run()
    assert "\n" not in str(caught.value)


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool(value.isfinite().all())
    if isinstance(value, dict):
        return all(_finite(item) for item in value.values())
    return all(_finite(item) for item in value) if isinstance(value, list | tuple) else True


@pytest.mark.parametrize(("name", "last"), [("pretrain", False), ("pretrain", True), ("vqa", True)])
def test_weights_that_overflow_reach_no_checkpoint_and_no_model(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, last: bool
) -> None:
    """A finite gradient can make them overflow; a rerun starts at the last good checkpoint."""
    _loop(world, tmp_path / "whole", name).run()
    broken = _loop(world, tmp_path / "broken", name)
    at = broken.steps_per_epoch if last else 4  # checkpoints are after steps 3 and 6

    layer = next(n for n, p in broken.task.model.student.text.layers[0].named_parameters() if p.ndim == 2)

    def overflow(step: int) -> None:
        if step == at:
            with torch.no_grad():
                dict(broken.task.model.student.text.layers[0].named_parameters())[layer][0, 0] = float("inf")

    _after(broken, monkeypatch, overflow)
    with refuses(TrainingError, name, f"model.student.text.layers.0.{layer}", "optim.lr"):
        broken.run()
    assert not (tmp_path / "broken" / "model.pth").exists()
    state = run_state.load(tmp_path / "broken" / "scratch" / "checkpoint.pt")
    assert state is not None
    assert state["step"] == (6 if last else 3)
    assert _finite(state)
    _loop(world, tmp_path / "broken", name).run()
    whole, resumed = (_weights(tmp_path / out) for out in ("whole", "broken"))
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


def _spoil(loop: Loop, patch: pytest.MonkeyPatch, steps: range) -> None:
    """Make an image of some steps not a number, as no encoder survives."""
    step = loop.train_step

    def spoiled(parts: Sequence[dict[str, Tensor]]) -> None:
        if loop.progress.step in steps:
            image = parts[0]["image"].float()
            image[0, 0, 0, 0] = float("nan")
            parts = [{**parts[0], "image": image}, *parts[1:]]
        step(parts)

    patch.setattr(loop, "train_step", spoiled)


@pytest.mark.parametrize("name", registry.names())
def test_a_run_that_ends_in_skipped_steps_has_a_finite_model(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    loop = _loop(world, tmp_path, name)
    total = loop.steps_per_epoch
    _spoil(loop, monkeypatch, range(total - 3, total))
    loop.run()
    assert _finite(_weights(tmp_path))
    assert "NaN" not in (tmp_path / "metrics.json").read_text()
    assert f"{name}: 3 of {total} steps were skipped" in caplog.text


def test_a_run_of_skipped_steps_alone_is_an_error(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = _loop(world, tmp_path, "entailment")
    assert loop.steps_per_epoch < loop.config.max_skipped_steps
    _spoil(loop, monkeypatch, range(20))
    with refuses(TrainingError, "entailment", 8, "max_skipped_steps"):
        loop.run()
    assert not (tmp_path / "model.pth").exists()
