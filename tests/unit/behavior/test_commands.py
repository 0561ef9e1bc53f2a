"""Tests of the stage with small models of every task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from albef import cli
from albef.behavior import commands
from albef.data.tokenizer import Encoder
from albef.models.albef import ALBEF
from albef.tasks import registry
from albef.weights import checkpoint
from tests.errors import refuses
from tests.worlds import color_world, tiny_config, write_params

TESTED = [name for name in registry.names() if registry.provides(name, "behavior")]


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with random models of all tasks, and the outputs of the stage in ``out``."""
    world, config = color_world(tmp_path_factory.mktemp("behavior") / "world", images=16), tiny_config()
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    torch.manual_seed(0)
    for task in (*TESTED, "pretrain"):
        folder = world / ("pretrain" if task == "pretrain" else f"models/{task}")
        checkpoint.save(ALBEF(config.model, encoder.vocab_size, task), folder / "model.pth")
    folders = [f"--{name}={world / name}" for name in ("lists", "tokenizer", "models", "out")]
    folders += [f"--images={world}", f"--pretrained={world / 'pretrain'}"]
    assert cli.main(["behavior", *folders, "--params", str(write_params(config, world / "params.yaml"))]) == 0
    return world


def read(world: Path, name: str) -> Any:
    return json.loads((world / "out" / f"{name}.json").read_text())


def test_every_task_is_tested(tested: Path) -> None:
    rows = read(tested, "tests")["tests"]
    by_task = {task: {row["test"]: row for row in rows if row["task"] == task} for task in TESTED}
    for task, found in by_task.items():
        assert found["brightness"]["cases"] == found["mirror"]["cases"] == (32 if task == "grounding" else 16)
    assert by_task["retrieval"]["opposite"]["cases"] == 16  # "red above blue"
    assert by_task["vqa"]["opposite answer"]["cases"] == 0  # no question for yes or no
    assert by_task["entailment"]["opposite"]["cases"] == 6  # the true ones
    assert by_task["grounding"]["other thing"]["cases"] == 0  # "the red half"
    assert by_task["nlvr2"]["exchange"]["cases"] == 16
    assert {row["rate"] for row in rows if not row["cases"]} == {None}
    rates = read(tested, "metrics")
    assert rates == {
        f"{row['task']}/{row['test'].replace(' ', '_')}": pytest.approx(row["rate"], abs=1e-4)
        for row in rows
        if row["cases"]
    }


def test_pseudo_targets_are_distributions_beside_the_truth(tested: Path) -> None:
    targets = read(tested, "pseudo_targets")
    captions = {text for row in json.loads((tested / "lists/pretrain.json").read_text()) for text in row["caption"]}
    assert len(targets) == 6
    for target in targets:
        assert target["word"].isalpha()
        assert "[MASK]" in target["text"]
        assert target["word"] in " ".join(target["captions"])
        for name in ("words", "texts"):
            probabilities = [p for _, p in target[name]]
            assert len(probabilities) == 5
            assert probabilities == sorted(probabilities, reverse=True)
            assert 0 < sum(probabilities) < 1.001
        assert {text for text, _ in target["texts"]} <= captions


def test_a_task_without_model_is_left_out_and_none_is_an_error(tested: Path, tmp_path: Path) -> None:
    config = tiny_config()
    folders = (tested / "lists", tested, tested / "tokenizer")
    (tmp_path / "models/entailment").mkdir(parents=True)
    with refuses(commands.BehaviorError, tmp_path / "models", "retrieval", "finetune"):
        commands.run(config, *folders, tmp_path / "models", tested / "pretrain", tmp_path / "out")
    (tmp_path / "models/entailment/model.pth").symlink_to(tested / "models/entailment/model.pth")
    commands.run(config, *folders, tmp_path / "models", tested / "pretrain", tmp_path / "out")
    rows = json.loads((tmp_path / "out/tests.json").read_text())["tests"]
    assert {row["task"] for row in rows} == {"entailment"}
