from __future__ import annotations

import ast
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from albef.config import ConfigError
from albef.export import repository, vendoring
from albef.export.repository import RepositoryError
from albef.index.index import ImageTextIndex
from albef.serving import pbtxt, protocol
from albef.serving.session import GraphError
from albef.tasks import registry
from albef.tasks.retrieval import spec as retrieval
from tests import ROOT
from tests.errors import refuses

ENDPOINTS = list(registry.endpoints())
TASKS = registry.served_tasks()
MODELS = sorted([*ENDPOINTS, *(spec.name for task in TASKS for spec in registry.graphs(task).values())])


def build(model, out, config=None, export=None, lists=None, tokenizer=None):
    folder = model.folder
    repository.run(
        config or model.config,
        export or model.exported,
        lists or folder / "lists",
        folder,
        tokenizer or folder / "tokenizer",
        out,
    )


@pytest.fixture(scope="module")
def fresh(model, tmp_path_factory):
    """Model repository that no server has used."""
    out = tmp_path_factory.mktemp("fresh") / "repository"
    build(model, out)
    return out


def test_layout(model, fresh):
    assert sorted(path.name for path in fresh.iterdir()) == MODELS
    for name in MODELS:
        config = pbtxt.parse(fresh / name / "config.pbtxt")
        assert config.name == name
        file = "model.py" if name in ENDPOINTS else "model.onnx"
        assert (fresh / name / str(model.config.serve.version) / file).is_file()
        few = name in ENDPOINTS or name == "vqa_decoder"
        expected = model.config.serve.max_queries if few else model.config.serve.max_batch_size
        assert config.max_batch_size == expected
    assert not list(fresh.rglob("__pycache__"))


def test_configurations_fit_their_graphs(model):
    """Compare names, types and dimensions of all inputs and outputs, parsed by the official protobuf."""
    proto = onnx.TensorProto
    kinds = {proto.FLOAT: "TYPE_FP32", proto.INT64: "TYPE_INT64", proto.INT32: "TYPE_INT32", proto.BOOL: "TYPE_BOOL"}
    graphs = list(model.repository.glob("*/*/model.onnx"))
    assert len(graphs) == len(MODELS) - len(ENDPOINTS)
    for path in graphs:
        graph = onnx.load(path, load_external_data=False).graph
        config = pbtxt.parse(path.parents[1] / "config.pbtxt")
        types = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
        for stated, values in ((config.input, graph.input), (config.output, graph.output)):
            found = []
            for value in values:
                tensor = value.type.tensor_type
                batch, *dims = (dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
                assert batch == -1, f"{path}: {value.name} has a fixed batch"
                found.append((value.name, kinds[tensor.elem_type], dims))
            assert [(t.name, types[t.data_type].name, list(t.dims)) for t in stated] == found, path


def test_nothing_names_a_place_of_this_machine(model, fresh):
    for path in fresh.rglob("*"):
        assert not path.is_symlink()
        if path.is_file():
            data = path.read_bytes()
            for place in (model.folder, fresh, ROOT):
                assert str(place).encode() not in data, path


def test_gallery_holds_every_image_and_distinct_caption(model, tmp_path):
    lists = tmp_path / "lists"
    shutil.copytree(model.folder / "lists", lists)
    rows = json.loads((lists / "retrieval_test.json").read_text())[:3]
    rows[0]["caption"] = ["red", "blue", "red"]
    rows[1]["caption"] = ["blue"]
    rows.append(rows[2])
    (lists / "retrieval_test.json").write_text(json.dumps(rows))
    build(model, tmp_path / "out", lists=lists)
    gallery = ImageTextIndex(tmp_path / "out" / "retrieval" / "1" / "index")
    assert gallery.images.ids(gallery.images.rows) == [row["image"] for row in rows[:3]]
    assert gallery.captions.ids(gallery.captions.rows) == ["red", "blue", *rows[2]["caption"]]
    embeds, mask = gallery.captions.segments.embeds([0])
    assert mask.sum() == embeds.shape[1] == 2  # [CLS] red


def test_float16_halves_the_gallery(model, tmp_path):
    config = dataclasses.replace(model.config, serve=dataclasses.replace(model.config.serve, index_dtype="float16"))
    build(model, tmp_path / "out", config)
    place = Path("retrieval") / "1" / "index" / "images-1-0" / "embeds.bin"
    small = np.fromfile(tmp_path / "out" / place, np.float16)
    full = np.fromfile(model.repository / place, np.float32)
    np.testing.assert_allclose(small, full, atol=0.01)


def test_same_inputs_give_the_same_bytes(model, tmp_path):
    build(model, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (model.repository / path.relative_to(tmp_path / "out")).read_bytes(), path


def restamp(path, **changes):
    proto = onnx.load(path)
    entries = {entry.key: entry.value for entry in proto.metadata_props} | changes
    onnx.helper.set_model_props(proto, {key: value for key, value in entries.items() if value})
    onnx.save(proto, path)


@pytest.fixture
def exported(model, tmp_path):
    shutil.copytree(model.exported, tmp_path / "export")
    return tmp_path / "export"


@pytest.mark.parametrize("key", [protocol.HASH_KEY, protocol.TOKENIZER_KEY, protocol.TEMPERATURE_KEY])
def test_graphs_of_different_models_are_refused(model, tmp_path, exported, key):
    restamp(exported / "retrieval" / "fusion.onnx", **{key: "0.5"})
    with refuses(RepositoryError, "fusion.onnx", key, 0.5):
        build(model, tmp_path / "out", export=exported)
    restamp(exported / "retrieval" / "fusion.onnx", **{key: ""})
    with refuses(RepositoryError, "fusion.onnx", key):
        build(model, tmp_path / "out", export=exported)
    assert not (tmp_path / "out").exists()


def test_another_tokenizer_is_refused(model, tmp_path):
    shutil.copytree(model.folder / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with refuses(RepositoryError, path):
        build(model, tmp_path / "out", tokenizer=tmp_path / "tokenizer")


def test_missing_or_broken_graphs_are_named(model, tmp_path, exported):
    path = exported / "retrieval" / "text.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    with refuses(GraphError, "text.onnx"):
        build(model, tmp_path / "out", export=exported)
    path.unlink()
    with refuses(GraphError, "text.onnx"):
        build(model, tmp_path / "out", export=exported)


def test_graph_with_other_names_is_refused(model, tmp_path, exported):
    proto = onnx.load(exported / "retrieval" / "fusion.onnx")
    for node in proto.graph.node:
        node.output[:] = ["logits" if name == retrieval.ITM_LOGITS else name for name in node.output]
    proto.graph.output[0].name = "logits"
    onnx.save(proto, exported / "retrieval" / "fusion.onnx")
    with refuses(GraphError, "retrieval_fusion", "['logits']"):
        build(model, tmp_path / "out", export=exported)


def test_failure_keeps_the_old_repository(model, tmp_path, exported):
    out = tmp_path / "out"
    build(model, out)
    (model.folder / "images" / "extra.txt").touch()
    lists = tmp_path / "lists"
    shutil.copytree(model.folder / "lists", lists)
    rows = json.loads((lists / "retrieval_test.json").read_text())
    (lists / "retrieval_test.json").write_text(json.dumps([*rows, {"image": "images/no.png", "caption": ["x"]}]))
    with refuses(ValueError, "images/no.png"):
        build(model, out, lists=lists)
    assert sorted(path.name for path in out.iterdir()) == MODELS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "lists", "out"]


@pytest.mark.parametrize("key", ["version", "max_batch_size", "max_queries", "instances", "shortlist", "max_k"])
def test_senseless_parameters_are_named(model, tmp_path, key):
    config = dataclasses.replace(model.config, serve=dataclasses.replace(model.config.serve, **{key: 0}))
    with refuses(ConfigError, f"serve.{key}", 0):
        build(model, tmp_path / "out", config)


def test_endpoint_brings_what_it_imports_and_no_more(model):
    files = vendoring.closure("albef.tasks.retrieval.endpoint")
    names = {str(path) for path in files}
    assert {"albef/__init__.py", "albef/data/images.py", "albef/data/text.py", "albef/index/index.py"} <= names
    assert not [name for name in names if name.startswith(("albef/models/albef", "albef/training", "albef/cli"))]
    heavy = {"torch", "transformers", "timm", "onnx", "tritonclient"}
    for path in files.values():
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        modules = {
            name
            for node in top
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        }
        assert not heavy & {str(module).split(".")[0] for module in modules}, path


def test_what_is_not_exported_is_not_served(model, tmp_path, exported):
    for task in TASKS:
        if task != "entailment":
            shutil.rmtree(exported / task)
    build(model, tmp_path / "out", export=exported)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["entailment", "entailment_classify", "entailment_vision"]
    shutil.rmtree(exported / "entailment")
    with refuses(RepositoryError, exported):
        build(model, tmp_path / "out2", export=exported)


def test_more_beams_than_a_batch_has_rows_are_refused(model, tmp_path):
    vqa = model.config.tasks.vqa
    vqa = dataclasses.replace(vqa, evaluate=dataclasses.replace(vqa.evaluate, beams=9))
    config = dataclasses.replace(model.config, tasks=dataclasses.replace(model.config.tasks, vqa=vqa))
    with refuses(ConfigError, "tasks.vqa.evaluate.beams", "serve.max_queries", 8, 9):
        build(model, tmp_path / "out", config)


def test_image_encoders_answer_from_the_cache(model):
    cached = {n for n in MODELS if pbtxt.parse(model.repository / n / "config.pbtxt").response_cache.enable}
    assert cached == {f"{task}_vision" for task in TASKS}
