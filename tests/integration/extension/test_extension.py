"""A task of another package, from training to the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from albef.config import to_dict
from albef.serving.runtime import Runtime
from albef.serving.server import TritonServer
from albef.weights import checkpoint
from tests import ROOT
from tests.served import random_model
from tests.worlds import COLORS, color_world, tiny_config

PACKAGE = Path(__file__).parent
TASK = "prompt_classification"

SCRIPT = """
import json, sys
from albef import cli
for arguments in json.loads(sys.argv[1]):
    assert cli.main(arguments) == 0, arguments
"""


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Environment of commands that see the package, as if it were installed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(PACKAGE)])}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A folder in which every stage of the task ran."""
    world = color_world(tmp_path_factory.mktemp("extension") / "world")
    rows = [{"image": f"images/{index}.png", "label": COLORS[index % 8]} for index in range(16)]
    (world / "lists" / "prompt_test.json").write_text(json.dumps(rows))
    config = tiny_config()
    checkpoint.save(random_model(world, config, task="pretrain"), world / "pretrain" / "model.pth")
    params = to_dict(config)
    prompts = {"classes": list(COLORS), "templates": ["{} above", "a photo of {}"], "batch_size": 8}
    params["tasks"] = {TASK: {"code": "x", "train": params["tasks"]["retrieval"]["train"], "evaluate": prompts}}
    params["release"]["metrics"] = {}
    (world / "params.yaml").write_text(json.dumps(params))
    data = ["--lists", f"{world}/lists", "--images", str(world), "--tokenizer", f"{world}/tokenizer"]
    out = f"{world}/artifacts"
    stages = [
        ["finetune", TASK, *data, "--init", f"{world}/pretrain", "--out", f"{out}/finetune/{TASK}"],
        ["evaluate", TASK, *data, "--model", f"{out}/finetune/{TASK}", "--out", f"{out}/evaluate/{TASK}"],
        ["export", TASK, *data[4:], "--model", f"{out}/finetune/{TASK}", "--out", f"{out}/export/{TASK}"],
        ["repository", *data, "--export", f"{out}/export", "--out", f"{out}/repository"],
        ["report", "--artifacts", out, "--images", str(world), "--out", f"{out}/report"],
    ]
    for stage in stages:
        stage += ["--params", f"{world}/params.yaml"]
    for stage in (stages[0], stages[-1]):
        stage += ["--work-dir", f"{world}/work", "--tracking-uri", "none"]
    command = [sys.executable, "-c", SCRIPT, json.dumps(stages)]
    done = subprocess.run(command, cwd=world, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return world


def test_it_is_evaluated_and_reported(world: Path) -> None:
    metrics = json.loads((world / "artifacts/evaluate" / TASK / "metrics.json").read_text())
    assert 0 <= metrics["accuracy"] <= 1
    assert metrics["chance"] == 1 / 8
    page = (world / "artifacts/report/index.html").read_text()
    assert "Classification with prompts" in page
    assert "images/0.png" in page


def test_it_is_served_and_asked(world: Path, environment: dict[str, str], runtime: Runtime) -> None:
    shown = json.loads((world / "artifacts/evaluate" / TASK / "shown/examples.json").read_text())["examples"]
    with TritonServer(world / "artifacts/repository", runtime=runtime) as server:
        ask = [sys.executable, "-m", "albef.cli", "ask", TASK, "--url", server.grpc_url]
        for row in shown[:2]:
            command = [*ask, "--image", str(world / row["image"])]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert done.stdout.splitlines()[1].split()[-1] == row["predicted"]
        command = [*ask, "--image", str(world / "images/0.png"), "--labels", "red", "blue"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert {line.split()[-1] for line in done.stdout.splitlines()[1:]} == {"red", "blue"}
