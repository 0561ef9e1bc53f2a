"""Bitwise equality of a resumed and an uninterrupted training run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from albef.config import load
from albef.training import run
from albef.weights import checkpoint
from tests.trainings import command, wait_for, weights
from tests.worlds import color_world, tiny_config, write_params


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = color_world(tmp_path_factory.mktemp("resume") / "world")
    write_params(tiny_config(epochs=6), folder / "params.yaml")
    return folder


@pytest.fixture(scope="module")
def undisturbed(world: Path) -> Path:
    out = world / "undisturbed"
    subprocess.run(command(world, out, world / "scratch-undisturbed", "pretrain"), check=True, timeout=180)
    return out


def test_killed_and_resumed_equals_undisturbed(world: Path, undisturbed: Path) -> None:
    out, scratch = world / "killed", world / "scratch-killed"
    for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)):
        process = subprocess.Popen(command(world, out, scratch, "pretrain"), stderr=subprocess.PIPE, text=True)
        wait_for(scratch / "run" / "checkpoint.pt", process, 3)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status, errors
        assert ("resuming at step" in errors) is (number == signal.SIGTERM)
        assert not (out / "model.pth").exists()

    again = subprocess.run(
        command(world, out, scratch, "pretrain"), check=True, timeout=180, capture_output=True, text=True
    )
    assert "resuming at step" in again.stderr
    expected, actual = weights(undisturbed), weights(out)
    assert expected.keys() == actual.keys()
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    for name in ("history.csv", "metrics.json"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()
    assert os.listdir(scratch) == []  # a finished run leaves no checkpoint behind


def test_finetune_starts_from_pretraining_and_learns(world: Path, undisturbed: Path) -> None:
    out = world / "finetuned"
    folders = (world / "lists", world, world / "tokenizer", out)
    config = load(world / "params.yaml")
    run.run(config, "retrieval", *folders, init=undisturbed, work_dir=out / "scratch", tracking_uri="none")
    rows = (out / "history.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss")
    assert float(rows[-1].split(",")[column]) < float(rows[1].split(",")[column])
    _, meta = checkpoint.load(out / "model.pth")
    assert meta.task == "retrieval"
