"""The model registry in a real MLflow store."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import onnx
import pytest

import albef
from albef.config import ConfigError, ReleaseConfig
from albef.registry import gate, models
from albef.registry.models import RegistryError
from albef.tasks import registry
from tests.docs import execute, python_blocks
from tests.errors import refuses
from tests.worlds import write_params

METRICS = {"retrieval": "r_mean", **dict.fromkeys(("vqa", "entailment", "nlvr2", "grounding"), "accuracy")}
CONFIG = ReleaseConfig(max_regression=0.02, metrics=METRICS)


def evaluations(folder: Path, **values: float) -> Path:
    """Write metrics of evaluations, 0.5 by default."""
    for endpoint, metric in METRICS.items():
        (folder / endpoint).mkdir(parents=True, exist_ok=True)
        text = json.dumps({metric: values.get(endpoint, 0.5), "chance": 0.1})
        (folder / endpoint / "metrics.json").write_text(text)
    return folder


def altered(repository: Path, target: Path) -> Path:
    """Copy a repository and change the doc string of each graph."""
    shutil.copytree(repository, target)
    for path in target.glob("*/*/model.onnx"):
        graph = onnx.load(path)
        graph.doc_string = "another"
        onnx.save(graph, path)
    return target


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MLflow puts files beside its database
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_graphs_come_back_with_signature_and_example(model, store, tmp_path):
    lists = model.folder / "lists"
    found = models.register(model.repository, evaluations(tmp_path / "e"), lists, store, ["retrieval", "vqa"])
    assert [(v.endpoint, v.number, v.metrics[METRICS[v.endpoint]]) for v in found] == [
        ("retrieval", 1, 0.5),
        ("vqa", 1, 0.5),
    ]
    mlflow.set_tracking_uri(store)
    for endpoint in ("retrieval", "vqa"):
        for name, path in models.graphs(model.repository, endpoint).items():
            uri = f"models:/albef-{endpoint}@challenger/{name}"
            assert mlflow.onnx.load_model(uri) == onnx.load(path)
            loaded = mlflow.pyfunc.load_model(uri)
            spec = registry.graphs(endpoint)[name.removeprefix(f"{endpoint}_")]
            assert loaded.metadata.signature.inputs.input_names() == list(spec.input_names)
            assert all(tensor.shape[0] == -1 for tensor in loaded.metadata.signature.inputs.inputs)
            example = loaded.metadata.load_input_example()
            answers = loaded.predict({key: np.asarray(value) for key, value in example.items()})
            assert set(answers) == set(spec.output_names)

    # The same models again are the same version, whose metrics are those of the last evaluation.
    (tmp_path / "model_card_vqa.md").write_text("# A card")
    inputs = (model.repository, evaluations(tmp_path / "e", vqa=0.6), lists, store)
    again = models.register(*inputs, ["retrieval", "vqa"], cards=tmp_path)
    described = {
        name: models.client(store).get_model_version(f"albef-{name}", "1").description for name in ("vqa", "retrieval")
    }
    assert (described["vqa"], described["retrieval"]) == ("# A card", None)
    assert [(v.number, v.metrics[METRICS[v.endpoint]]) for v in again] == [(1, 0.5), (1, 0.6)]
    other = models.register(altered(model.repository, tmp_path / "other"), tmp_path / "e", lists, store, ["vqa"])
    assert other[0].number == 2
    assert other[0].tags["model_hash"] == found[1].tags["model_hash"]
    assert other[0].tags["content"] != found[1].tags["content"]


@pytest.fixture
def stages(model, tmp_path) -> Path:
    """Checkpoints of the exported models and their parameters, as in a project folder."""
    folder = tmp_path / "stages"
    folder.mkdir()
    (folder / "vqa").symlink_to(model.folder / "models" / "vqa")
    (folder / "entailment").symlink_to(model.folder / "models" / "vqa")
    write_params(model.config, folder / "params.yaml")
    return folder


@pytest.mark.parametrize("code", python_blocks("mlflow"))
def test_a_champion_is_loaded_from_the_registry(model, store, tmp_path, stages, code, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    inputs = (model.repository, evaluations(tmp_path / "e"), model.folder / "lists", store)
    files = {"models": stages, "params": stages / "params.yaml"}
    models.register(*inputs, ["vqa"])
    gate.promote(1, store)
    with pytest.raises(RegistryError):  # graphs alone
        albef.load("models:/albef-vqa@champion")
    (found,) = models.register(*inputs, ["vqa"], **files)
    assert (found.number, len(found.tags[models.CHECKPOINT])) == (1, 64)  # added to the version
    local = albef.load(stages / "vqa", tokenizer=model.folder / "tokenizer", params=stages / "params.yaml")
    image, question = model.folder / "images" / "3.png", "what color is above"
    expected = local.answer(image, question)
    for name in ("models:/albef-vqa@champion", "models:/albef-vqa/1"):
        assert albef.load(name).answer(image, question) == expected
    mlflow.set_tracking_uri(store)
    execute(code)
    for name in ("models:/albef-vqa@previous", "models:/albef-vqa/7", "models:/albef-vqa"):
        with pytest.raises(RegistryError):
            albef.load(name)
    with pytest.raises(RegistryError):  # of another model
        models.register(*inputs, ["entailment"], **files)
    with pytest.raises(RegistryError):
        models.register(*inputs, ["grounding"], **files)


def test_places_change_and_change_back(model, store, tmp_path):
    lists, only = model.folder / "lists", ["entailment"]
    good, other = evaluations(tmp_path / "good"), altered(model.repository, tmp_path / "other")
    with refuses(RegistryError, "challenger"):
        gate.compare(CONFIG, store)
    models.register(model.repository, good, lists, store, only)
    (first,) = gate.compare(CONFIG, store)
    assert (first.passed, first.champion, first.said) == (True, None, "there is no champion yet")
    gate.promote(1, store)

    def verdict(accuracy: float) -> gate.Verdict:
        models.register(other, evaluations(tmp_path / "new", entailment=accuracy), lists, store, only)
        (found,) = gate.compare(CONFIG, store)
        assert (found.champion, found.challenger, found.before) == (1, 2, 0.5)
        return found

    assert verdict(0.47).said == "loses 0.0300, more than release.max_regression, 0.02"
    assert not verdict(0.47).passed
    assert verdict(0.49).passed
    assert verdict(0.6).said == "gains 0.1000"
    (champion,) = gate.promote(7, store)
    assert (champion.number, champion.tags["triton_version"]) == (2, "7")
    assert {which: v.number for which, v in gate.aliased_versions(store)} == {"champion": 2, "previous": 1}
    gate.revert(store)
    assert {which: v.number for which, v in gate.aliased_versions(store)} == {"champion": 1}
    with refuses(RegistryError, "previous"):
        gate.revert(store)


def test_a_champion_of_another_test_list_is_asked_anew(model, server, store, tmp_path):
    only, images = ["vqa", "retrieval"], model.folder
    models.register(model.repository, evaluations(tmp_path / "e"), model.folder / "lists", store, only)
    gate.promote(1, store)
    lists = tmp_path / "lists"
    shutil.copytree(model.folder / "lists", lists)
    for name in ("vqa_test", "retrieval_test"):
        rows = json.loads((lists / f"{name}.json").read_text())
        (lists / f"{name}.json").write_text(json.dumps(rows[:5]))
    other = altered(model.repository, tmp_path / "other")
    models.register(other, evaluations(tmp_path / "e", vqa=1.0), lists, store, only)
    assert [v.passed for v in gate.compare(CONFIG, store)] == [False, False]
    (tmp_path / "manifest.json").write_text("{}")
    ranked, answered = gate.compare(CONFIG, store, server.grpc_url, lists, images)
    assert answered.passed
    assert answered.before is not None
    assert 0 <= answered.before <= 1
    assert not ranked.passed  # what is served is no gallery of the new list
    assert "another test list; register it again" in ranked.said


def test_mistakes_are_named(model, store, tmp_path):
    lists = model.folder / "lists"
    with refuses(RegistryError, tmp_path):
        models.register(tmp_path, tmp_path, lists, store)
    with refuses(RegistryError, "vqa/metrics.json"):
        models.register(model.repository, tmp_path, lists, store, ["vqa"])
    with refuses(RegistryError, "vqa_test.json"):
        models.register(model.repository, evaluations(tmp_path / "e"), tmp_path, store, ["vqa"])
    with refuses(RegistryError, "http://127.0.0.1:9"):
        models.client("http://127.0.0.1:9")
    with refuses(RegistryError, "MLFLOW_TRACKING_URI", "'none'"):
        models.client("none")
    models.register(model.repository, evaluations(tmp_path / "e"), lists, store, ["vqa"])
    registry = models.client(store)
    assert models.by_alias(registry, "vqa", "champion") is None
    assert models.by_alias(registry, "grounding", "champion") is None
    (tmp_path / "mlflow.db").write_bytes(b"no database")
    with refuses(RegistryError, "albef-vqa"):
        models.by_alias(registry, "vqa", "champion")  # and is not taken for one without a champion


def test_a_metric_that_was_not_evaluated_is_named(model, store, tmp_path):
    models.register(model.repository, evaluations(tmp_path / "e"), model.folder / "lists", store, ["vqa"])
    metrics = {**CONFIG.metrics, "vqa": "bleu"}
    with refuses(ConfigError, "params.release.metrics.vqa", "accuracy", "'bleu'"):
        gate.compare(dataclasses.replace(CONFIG, metrics=metrics), store)
