"""Trainings as commands whose images are damaged, killed and resumed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch

from albef.config import Config
from albef.data.faults import LIST
from albef.training import job as training
from albef.training.job import Job
from tests.ranks import in_ranks
from tests.trainings import command, wait_for, weights
from tests.worlds import color_world, tiny_config, write_params

BAD = [20, 33, 34, 61]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Missing, empty and truncated images, and a folder in place of one."""
    folder = color_world(tmp_path_factory.mktemp("faults") / "world")
    missing, empty, truncated, other = (folder / "images" / f"{row}.png" for row in BAD)
    missing.unlink()
    empty.write_bytes(b"")
    truncated.write_bytes(truncated.read_bytes()[:70])
    other.unlink()
    other.mkdir()
    return folder


def _params(world: Path, workers: int, **train: object) -> None:
    write_params(tiny_config(epochs=3, max_bad_share=0.1, num_workers=workers, **train), world / "params.yaml")


def _listed(out: Path) -> list[int]:
    return [json.loads(line)["row"] for line in (out / LIST).read_text().splitlines()]


def test_killed_and_resumed_with_loading_processes_equals_undisturbed(world: Path, tmp_path: Path) -> None:
    whole, killed, scratch = tmp_path / "whole", tmp_path / "killed", tmp_path / "scratch"
    _params(world, 0)
    run = partial(subprocess.run, check=True, timeout=180, capture_output=True, text=True)
    errors = run(command(world, whole, tmp_path / "scratch-whole", "pretrain")).stderr
    assert "pretrain: 12 of 192 rows were malformed or without a readable image" in errors
    assert str(whole / LIST) in errors
    _params(world, 2)
    process = subprocess.Popen(command(world, killed, scratch, "pretrain"), stderr=subprocess.PIPE, text=True)
    wait_for(scratch / "run" / "checkpoint.pt", process, 2)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (killed / "model.pth").exists()
    assert "resuming at step" in run(command(world, killed, scratch, "pretrain")).stderr
    expected, actual = weights(whole), weights(killed)
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    for name in ("history.csv", "metrics.json", LIST):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    assert json.loads((whole / "metrics.json").read_text())["skipped_rows"] == 12
    assert _listed(whole) == BAD


def test_a_folder_that_is_missing_ends_the_command_with_a_sentence(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    shutil.rmtree(folder / "images")
    _params(folder, 2)
    done = subprocess.run(
        command(folder, tmp_path, tmp_path / "scratch", "pretrain"), timeout=180, capture_output=True, text=True
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
    assert line.startswith("albef pretrain: pretrain: all 8 rows of a batch")
    assert str(tmp_path / LIST) in line


def _train(config: Config, world: Path, out: Path) -> None:
    job = Job("pretrain", world / "lists", world, world / "tokenizer", out, None, out / "scratch", "none")
    training.train(config, job, torch.device("cpu"))


def test_ranks_count_and_list_the_rows_of_all(world: Path, tmp_path: Path) -> None:
    config = tiny_config(epochs=2, max_bad_share=0.1, num_workers=1, device_batch_size=2)
    config = dataclasses.replace(config, distributed=dataclasses.replace(config.distributed, world_size=2))
    in_ranks(2, partial(_train, config, world, tmp_path))
    assert json.loads((tmp_path / "metrics.json").read_text())["skipped_rows"] == 8
    assert _listed(tmp_path) == BAD
