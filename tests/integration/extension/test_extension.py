"""A task of another package, from training to the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from albef.config import to_dict
from albef.data.tokenizer import Encoder
from albef.inference.encode import pixels_of, words_of
from albef.models.albef import ALBEF
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
import albef
from albef import cli

for arguments in json.loads(sys.argv[1]):
    assert cli.main(arguments) == 0, arguments

# The task needs no code of its own for what its architecture can do.
model = albef.load(sys.argv[2], tokenizer="tokenizer", device="cpu")
scores = model.similarity([f"images/{number}.png" for number in range(3)], ["red above", "a photo of blue"])
json.dump({"task": model.task, "scores": scores.tolist()}, open("api.json", "w"))
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
    command = [sys.executable, "-c", SCRIPT, json.dumps(stages), f"{out}/finetune/{TASK}"]
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


def test_it_is_loaded_from_python(world: Path) -> None:
    found = json.loads((world / "api.json").read_text())
    assert found["task"] == TASK
    encoder = Encoder.from_file(world / "tokenizer/tokenizer.json")
    saved = torch.load(world / "artifacts/finetune" / TASK / "model.pth", weights_only=True)["model"]
    network = ALBEF(tiny_config().model, encoder.vocab_size, "retrieval").eval()  # of the same architecture
    network.load_state_dict(saved)
    cpu, train = torch.device("cpu"), tiny_config().tasks.retrieval.train
    with torch.no_grad():
        _, images = network.encode_image(pixels_of([world / f"images/{n}.png" for n in range(3)], 32))
        _, texts = network.encode_text(*words_of(["red above", "a photo of blue"], encoder, train, cpu))
    np.testing.assert_allclose(found["scores"], images @ texts.T, atol=1e-5)


def test_it_is_served_and_asked(world: Path, environment: dict[str, str], runtime: Runtime) -> None:
    shown = json.loads((world / "artifacts/evaluate" / TASK / "shown/examples.json").read_text())["examples"]
    with TritonServer(world / "artifacts/repository", runtime=runtime) as server:
        ask = [sys.executable, "-m", "albef.cli", "ask", TASK, "--url", server.grpc_url]
        command = [*ask, "--image", str(world / shown[0]["image"])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[1].split()[-1] == shown[0]["predicted"]
        command = [*ask, "--image", str(world / "images/0.png"), "--labels", "red", "blue"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert {line.split()[-1] for line in done.stdout.splitlines()[1:]} == {"red", "blue"}
