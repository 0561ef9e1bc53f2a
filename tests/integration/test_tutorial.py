"""Every step of the tutorial, from its trial set to answers of a server."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from albef import cli
from albef.serving.runtime import Runtime
from albef.serving.server import TritonServer
from albef.serving.service import Access, Service
from tests import ROOT
from tests.docs import blocks, execute
from tests.served import Served, copy_endpoints
from tests.unit.pipeline.test_graph import stages

PAGE = ROOT / "docs/tutorial.md"
STAGES = ("inspect", "prepare", "validate", "tokenizer", "pretrain", "finetune@retrieval")
"""Stages of the training, in the order of `dvc repro`."""


def shrink(params: Path) -> None:
    """Make model and training tiny."""
    yaml = YAML()
    data = yaml.load(params)
    tiny = yaml.load(ROOT / "tests/presets/tiny.yaml")
    data["model"] = tiny["model"]
    for section in (data["pretrain"], data["tasks"]["retrieval"]["train"]):
        section.update({"epochs": 1, "num_workers": 0, "augment": "none"})
    yaml.dump(data, params)


def found(output: str) -> list[str]:
    """Return the names of photos at the ends of lines."""
    return [Path(line.split()[-1]).name for line in output.splitlines() if line.endswith(".png")]


def run(*arguments: str) -> None:
    """Run a command line of `albef` in this process."""
    assert cli.main(arguments) == 0, arguments


def test_every_step_of_the_tutorial(
    tmp_path: Path,
    model: Served,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline = [shlex.split(stages()[name].cmd)[2:] for name in STAGES]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for folder in ("samples", "albef"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    trial, search = blocks(PAGE, "python")
    lines = [line for block in blocks(PAGE, "bash") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith(".venv/bin/albef ")]
    assert "test=500" in trial
    execute(trial.replace("test=500", "test=64"))

    run(*commands.pop(0))
    shrink(tmp_path / "params.yaml")
    for arguments in pipeline:  # without a search of hyper-parameters
        run(*(word for word in arguments if word != "--tuned" and not word.endswith("best.yaml")))
    capsys.readouterr()
    execute(search)
    assert len(found(capsys.readouterr().out)) == 3

    # Exporting takes longer than all of the above and is tested elsewhere: the repository is that of other tests.
    copy_endpoints(model.repository, tmp_path / "served", "retrieval")
    run(*commands.pop(0))
    assert "64" in capsys.readouterr().out
    assert commands.pop(0) == ["serve", "--repository", "served"]
    with Service(TritonServer("served", runtime=runtime), Access(http_port=None)) as service:
        while commands[0][0] == "ask":
            run(*commands.pop(0), "--url", service.grpc_url)
            assert len(found(capsys.readouterr().out)) in (3, 5)
        (tmp_path / "more-photos").mkdir()
        (tmp_path / "photos/000000.png").rename(tmp_path / "more-photos/new.png")
        run(*commands.pop(0))
        query = ("--image", "more-photos/new.png", "one thing", "--text-weight", "0", "-k", "2")
        run("ask", "retrieval", *query, "--url", service.grpc_url)
        assert {"000000.png", "new.png"} == set(found(capsys.readouterr().out))
    assert not commands
