"""Tests of `albef init-data` for a folder of lists."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from albef import cli, init_lists
from albef import config as configuration
from tests import ROOT


@pytest.fixture
def params(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    return tmp_path / "params.yaml"


def _folder(path: Path, **rows: int) -> Path:
    path.mkdir()
    for name, count in rows.items():
        (path / f"{name}.json").write_text(json.dumps([{}] * count))
    return path


def test_tasks_with_lists_are_kept(params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _folder(tmp_path / "own", pretrain=500, vqa_train=90, vqa_val=20, vqa_test=20, answer_list=7)
    assert cli.main(["init-data", str(folder), "--params", str(params)]) == 0
    config = configuration.load(params)
    assert config.prepare.lists is not None
    assert set(config.prepare.lists.files) == {"pretrain", "vqa_train", "vqa_val", "vqa_test", "answer_list"}
    assert config.prepare.lists.image_root == str(folder)
    assert list(YAML(typ="safe").load(params)["tasks"]) == ["vqa"]
    assert set(config.release.metrics) == {"vqa"}
    assert init_lists.tasks_without_data(config) == []
    for section, rows in ((config.pretrain, 500), (config.tasks.vqa.train, 90)):
        steps = rows // section.batch_size * section.epochs
        assert section.batch_size * 2 <= rows
        assert 300 <= steps <= 700
        assert section.optim.warmup_steps < steps
        assert section.log_every < steps
    printed = capsys.readouterr().out
    assert "vqa_train 90" in printed
    assert "retrieval, entailment, nlvr2, grounding" in printed


@pytest.mark.parametrize(
    ("rows", "expected"), [({"vqa_train": 9}, "pretrain.json"), ({"pretrain": 9, "vqa_test": 9}, "vqa_train")]
)
def test_what_is_missing_is_named(
    params: Path, tmp_path: Path, rows: dict[str, int], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = params.read_text()
    assert cli.main(["init-data", str(_folder(tmp_path / "own", **rows)), "--params", str(params)]) == 2
    assert expected in capsys.readouterr().err
    assert params.read_text() == before


def test_a_broken_list_is_named(params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _folder(tmp_path / "own", pretrain=3)
    (folder / "vqa_train.json").write_text("[")
    assert cli.main(["init-data", str(folder), "--params", str(params)]) == 2
    assert "vqa_train.json" in capsys.readouterr().err


def test_tasks_without_lists_are_found(params: Path) -> None:
    data = YAML().load(params)
    files = {"pretrain": ["a.json"], "ve_train": ["b.json"]}
    data["prepare"] = {"source": "lists", "lists": {"image_root": ".", "files": files}}
    YAML().dump(data, params)
    assert init_lists.tasks_without_data(configuration.load(params)) == ["retrieval", "vqa", "nlvr2", "grounding"]
    assert init_lists.tasks_without_data(configuration.load(ROOT / "params.yaml")) == []
