"""Tests of the origin of a report."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from albef import presets
from albef.report import about
from albef.report.source import ReportError
from tests.errors import refuses


def test_date_data_and_device(tmp_path: Path) -> None:
    for name, content in {
        "evaluate/vqa/metrics.json": {},
        "data/manifest.json": {"source": "pairs", "lists": {}},
        "behavior/tests.json": {"device": "a processor"},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(json.dumps(content))
    os.utime(tmp_path / "evaluate/vqa/metrics.json", (0, 86_400))
    rows = {str(name): str(value) for name, value in about.rows(tmp_path)}
    assert rows["results of"] == "1970-01-02 00:00 UTC"
    assert rows["data"].startswith("source pairs")
    assert rows["device"] == "a processor"


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_parameters_are_compared_with_the_last_commit(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    assert about.changed_parameters(params) is None
    params.write_text("pretrain:\n  epochs: 3\n  optim: {lr: 0.1, gone: 1}\nserve:\n  max_k: 1\n")
    git(tmp_path, "init", "-q")
    assert about.changed_parameters(params) is None  # nothing is committed
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    assert about.changed_parameters(params) == ("params.yaml of the last commit", [])
    params.write_text("pretrain:\n  epochs: 5\n  optim: {lr: 0.1}\n  seed: null\nserve:\n  max_k: 2\n")
    changed = about.changed_parameters(params)
    assert changed is not None
    assert changed[1] == [
        ["pretrain.epochs", "3", "5"],
        ["pretrain.optim.gone", "1", "-"],
        ["pretrain.seed", "-", "None"],
    ]


def test_parameters_of_a_preset_are_compared_with_it(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    text = presets.content("paper-4m")
    params.write_text(text.replace("mask_probability: 0.15", "mask_probability: 0.3"))
    assert about.changed_parameters(params) == ("preset paper-4m", [["pretrain.mask_probability", "0.15", "0.3"]])


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(presets.content("paper-4m") + "a: [")
    with refuses(ReportError, params):
        about.changed_parameters(params)
