from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest
import torch

from albef.data import tokenizer as tokenizers
from albef.export import onnx as export
from albef.export.graphs import graph_sizes, graphs_of, model_hash
from albef.export.parity import ParityError
from albef.io import file_hash
from albef.serving import protocol
from albef.serving import session as sessions
from albef.tasks.evaluation import EvaluationError
from albef.tasks.registry import UnknownTaskError
from albef.tasks.retrieval import spec as retrieval
from albef.weights import checkpoint
from tests.errors import refuses
from tests.served import random_model, served_config


@pytest.fixture(scope="module")
def net(model):
    return checkpoint.load(model.folder / "models" / "retrieval" / "model.pth")[0]


def test_graphs_have_the_signature_of_the_contract(model, net):
    specs = retrieval.graphs(graph_sizes(net))
    for name, spec in specs.items():
        path = model.exported / "retrieval" / f"{name}.onnx"
        sessions.check_signature(sessions.open_session(path), spec)
        proto = onnx.load(path)
        onnx.checker.check_model(proto, full_check=True)
        assert proto.ir_version <= 10
        assert {o.domain: o.version for o in proto.opset_import}[""] == model.config.export.opset
        assert not list(path.parent.glob("*.data"))


def test_metadata_ties_graphs_to_model_and_tokenizer(model, net):
    for graph in (protocol.VISION, retrieval.TEXT_GRAPH, retrieval.FUSION_GRAPH):
        found = sessions.metadata(sessions.open_session(model.exported / "retrieval" / f"{graph}.onnx"))
        assert found[protocol.HASH_KEY] == model_hash(net)
        assert found[protocol.TOKENIZER_KEY] == file_hash(model.folder / "tokenizer" / "tokenizer.json")
        assert float(found[protocol.TEMPERATURE_KEY]) == pytest.approx(model.config.model.temperature)


def test_wrong_signature_is_refused(model, net):
    specs = retrieval.graphs(graph_sizes(net))
    opened = sessions.open_session(model.exported / "retrieval" / "text.onnx")
    spec = specs[protocol.TEXT]
    with refuses(sessions.GraphError, "inputs"):
        sessions.check_signature(opened, specs[protocol.VISION])
    wider = dataclasses.replace(spec.outputs[1], dims=(99,))
    with refuses(sessions.GraphError, "text_feat", "tensor(float)", "[-1, 99]"):
        sessions.check_signature(opened, dataclasses.replace(spec, outputs=(spec.outputs[0], wider)))
    other = dataclasses.replace(spec.inputs[0], dtype="FP32")
    with refuses(sessions.GraphError, "input_ids"):
        sessions.check_signature(opened, dataclasses.replace(spec, inputs=(other, spec.inputs[1])))


def test_parity_covers_shapes_the_export_has_not_seen(model):
    report = json.loads((model.exported / "retrieval" / "parity.json").read_text())
    assert report["max_abs"] <= report["tolerance"]
    shapes = report["graphs"]["text"]["text_embeds"]["shapes"]
    batches = {shape.split("x")[0] for shape in shapes}
    lengths = {int(shape.split("x")[1]) for shape in shapes}
    assert batches >= {"1", "3", "7"}
    assert {1, model.config.model.text.max_positions} <= lengths
    assert len(report["graphs"]["fusion"]["itm_logits"]["shapes"]) == len(shapes)


def test_padding_does_not_change_answers(model):
    # What serving relies on when it pads texts to share a batch.
    text = sessions.open_session(model.exported / "retrieval" / "text.onnx")
    ids, mask = np.full((1, 8), 7), np.array([[1, 1, 1, 0, 0, 0, 0, 0]])
    padded = text.run(None, {protocol.INPUT_IDS: ids, protocol.ATTENTION_MASK: mask})
    alone = text.run(None, {protocol.INPUT_IDS: ids[:, :3], protocol.ATTENTION_MASK: mask[:, :3]})
    np.testing.assert_allclose(padded[1], alone[1], atol=1e-5)


def tamper(path, pick):
    """Add noise to one weight; a constant would vanish in the next normalization."""
    proto = onnx.load(path)
    weight = next(w for w in proto.graph.initializer if pick(w))
    array = onnx.numpy_helper.to_array(weight).copy()
    array += np.random.default_rng(0).normal(scale=0.01, size=array.shape).astype(array.dtype)
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(proto, path)


@pytest.mark.parametrize("graph", ["vision", "text", "fusion"])
def test_gate_catches_a_tampered_graph(model, net, tmp_path, graph):
    shutil.copytree(model.exported / "retrieval", tmp_path / "graphs")
    words = tokenizers.load(model.folder / "tokenizer")
    report = export.gate(model.config, net, "retrieval", tmp_path / "graphs", words)
    assert set(report) == {"vision", "text", "fusion"}
    tamper(tmp_path / "graphs" / f"{graph}.onnx", lambda w: len(w.dims) == 2 and min(w.dims) > 8)
    with refuses(ParityError, f"retrieval_{graph}", "export.tolerance"):
        export.gate(model.config, net, "retrieval", tmp_path / "graphs", words)


def test_gate_catches_another_model(model, tmp_path):
    other = random_model(model.folder, model.config, seed=5)
    words = tokenizers.load(model.folder / "tokenizer")
    with refuses(ParityError, "export.tolerance"):
        export.gate(model.config, other, "retrieval", model.exported / "retrieval", words)


def test_failed_gate_leaves_the_old_export(model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    config = dataclasses.replace(model.config, export=dataclasses.replace(model.config.export, tolerance=0.0))
    folder = model.folder / "models/entailment"
    with refuses(ParityError, "export.tolerance", 0):
        export.run(config, "entailment", folder, model.folder / "tokenizer", out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["old"]


def test_unknown_task_is_named(model, tmp_path):
    with refuses(UnknownTaskError, "'guess'"):
        export.run(
            model.config, "guess", model.folder / "models" / "retrieval", model.folder / "tokenizer", tmp_path / "out"
        )


def test_tokenizer_of_another_size_is_refused(model, tmp_path):
    words = tokenizers.load(model.folder / "tokenizer")
    words.add_tokens(["extraordinary"])
    words.save(str(tmp_path / "tokenizer.json"))
    with refuses(EvaluationError, "tokenizer.json", "model.pth"):
        export.run(model.config, "retrieval", model.folder / "models" / "retrieval", tmp_path, tmp_path / "out")


def test_hash_follows_what_answers_depend_on(model):
    net = checkpoint.load(model.folder / "models" / "retrieval" / "model.pth")[0]
    before = model_hash(net)
    with torch.no_grad():
        next(net.teacher.parameters()).add_(1)
        next(net.queue.buffers()).add_(1)
        assert model_hash(net) == before
        old = net.itm_head.bias.clone()
        net.itm_head.bias.add_(1)
        assert model_hash(net) != before
        net.itm_head.bias.copy_(old)
        assert model_hash(net) == before
        net.temperature.mul_(2)
        assert model_hash(net) != before


def test_patch_stem_exports_too(model, tmp_path):
    config = served_config()
    shape = dataclasses.replace(
        config.model, patch_size=8, vision=dataclasses.replace(config.model.vision, stem="patch", depth=1)
    )
    config = dataclasses.replace(config, model=shape)
    checkpoint.save(random_model(model.folder, config, task="entailment"), tmp_path / "model" / "model.pth")
    export.run(config, "entailment", tmp_path / "model", model.folder / "tokenizer", tmp_path / "out")
    assert graph_sizes(checkpoint.load(tmp_path / "model" / "model.pth")[0]).image_tokens == 17
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["max_abs"] < 1e-4


def test_every_graph_is_exported(net, model):
    assert {f"{name}.onnx" for name in graphs_of("retrieval", net, model.config)} | {"parity.json"} == {
        path.name for path in (model.exported / "retrieval").iterdir()
    }
