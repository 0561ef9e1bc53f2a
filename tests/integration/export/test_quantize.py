"""int8 quantization and its accuracy check."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from ruamel.yaml import YAML

from albef import cli
from albef.config import to_dict
from albef.export import quantize
from albef.export.quantize import QuantizationError
from albef.serving import protocol, requests
from albef.serving.runtime import ensure
from albef.serving.session import metadata, open_session
from benchmarks.load.local import Local
from tests.errors import refuses
from tests.served import Served

LIMIT = 4
INT8 = quantize.int8


def run(model: Served, out: Path, max_loss: float, lists: Path) -> None:
    folder, words = model.folder, model.folder / "tokenizer"
    quantize.run(model.config, model.exported, lists, folder, words, model.repository, out, max_loss, LIMIT)


def test_a_graph_is_smaller_and_nearly_the_same(model, tmp_path):
    source, target = model.exported / "retrieval" / "vision.onnx", tmp_path / "vision.onnx"
    quantize.int8(source, target)
    assert target.stat().st_size < 0.7 * source.stat().st_size
    size = model.config.model.image_size
    pixels = {protocol.PIXEL_VALUES: np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)}
    sessions = [open_session(path) for path in (source, target)]
    assert metadata(sessions[0]).items() <= metadata(sessions[1]).items()
    exact, small = (session.run([protocol.IMAGE_FEAT], pixels)[0] for session in sessions)
    assert 0 < np.abs(exact - small).max() < 0.1
    assert (exact * small).sum(-1).min() > 0.99  # of features of length 1


@pytest.mark.parametrize(
    ("before", "after", "loss", "error"),
    [
        ([1, 1, 0, 0], [1, 0, 0, 0], 0.25, 0.25),
        ([0, 1], [1, 1], -0.5, 0.5),
        ([1, 1], [1, 1], 0.0, 0.0),
        ([1], [0], 1.0, 0.0),
    ],
)
def test_losses(before, after, loss, error):
    (change,) = quantize.compare({"m": before}, {"m": after})
    assert (change.loss, change.standard_error) == (pytest.approx(loss), pytest.approx(error))
    assert change.questions == len(before)


def test_repository_is_written_and_measured(model, tmp_path, capsys):
    ensure()
    out, report = tmp_path / "models", tmp_path / "metrics.json"
    folder, params = model.folder, tmp_path / "params.yaml"
    YAML().dump(to_dict(model.config), params)
    options = {
        "export": model.exported, "lists": folder / "lists", "images": folder, "tokenizer": folder / "tokenizer",
        "repository": model.repository, "out": out, "max-loss": 1, "limit": LIMIT, "json": report, "params": params,
    }  # fmt: skip
    command = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert cli.main(["quantize", *command]) == 0
    rows = json.loads(report.read_text())
    assert [row["metric"] for row in rows] == [
        "image R@1", "text R@1", "VQA accuracy", "entailment accuracy", "NLVR2 accuracy", "grounding accuracy",
    ]  # fmt: skip
    assert all(row["questions"] >= LIMIT for row in rows)
    shown = capsys.readouterr().out
    assert all(row["metric"] in shown for row in rows)
    assert {path.name for path in out.iterdir()} == {path.name for path in model.repository.iterdir()}
    for graph in out.glob("*/1/model.onnx"):
        kinds = {weight.data_type for weight in onnx.load(graph).graph.initializer}
        assert onnx.TensorProto.INT8 in kinds, graph


def turned(source: Path, target: Path) -> None:
    """Quantize to int8, and negate the scores of entailment."""
    INT8(source, target)
    if source.name != "classify.onnx":
        return
    made = onnx.load(target)
    (output,) = made.graph.output
    (last,) = [node for node in made.graph.node if output.name in node.output]
    last.output[list(last.output).index(output.name)] = "upright"
    made.graph.initializer.append(numpy_helper.from_array(np.float32(-1), "minus"))
    made.graph.node.append(onnx.helper.make_node("Mul", ["upright", "minus"], [output.name]))
    onnx.save(made, target)


def test_too_much_loss_is_refused_and_nothing_stays(model, tmp_path, monkeypatch):
    lists, out = tmp_path / "lists", tmp_path / "out" / "models"
    shutil.copytree(model.folder / "lists", lists)
    rows = json.loads((lists / "ve_test.json").read_text())[:LIMIT]
    local = Local(model.repository, "entailment")
    for row in rows:  # what the model says is right
        (found,) = local.ask(
            requests.build("entailment", image=model.folder / row["image"], hypotheses=[row["sentence"]])
        )
        row["label"] = max(found, key=lambda label: found[label])
    (lists / "ve_test.json").write_text(json.dumps(rows))
    monkeypatch.setattr(quantize, "int8", turned)
    with refuses(QuantizationError, "entailment", "accuracy", "1.0000", "0.0000"):
        run(model, out, 0.9, lists)
    assert not list(out.parent.iterdir())
