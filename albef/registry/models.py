"""Versions and aliases in MLflow's model registry: ``albef-ENDPOINT``, `challenger` and `champion`.

A version of an endpoint holds each of its ONNX graphs as an MLflow model with tensor signature and input example:
``mlflow.onnx.load_model("models:/albef-vqa@champion/vqa_decoder")``.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from albef.export.quantize import TEST_LISTS
from albef.serving import onnxfile, protocol
from albef.serving.release import versions
from albef.tracking.mlflow_sync import experiment_id
from albef.tracking.origin import origin
from albef.tracking.tracker import resolve

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)
EXPERIMENT = "albef-release"
METRIC = "metric."
"""What the tags of test metrics begin with."""
DYNAMIC = 4
"""Of an input example, the length of a dimension that may be any."""
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


class RegistryError(ValueError):
    """A model cannot be registered, is not there, or may not take over."""


@dataclass(frozen=True)
class Version:
    """A version of an endpoint's model.

    Args:
        metrics: Of its evaluation on the test split.
        data: Hash of the test list that they are of.
    """

    endpoint: str
    number: int
    metrics: dict[str, float]
    data: str
    tags: dict[str, str]


def name_of(endpoint: str) -> str:
    """Name of an endpoint's registered model."""
    return f"albef-{endpoint}"


def client(uri: str | None = None) -> Any:
    """A client of the registry: as given, or by ``MLFLOW_TRACKING_URI``, or a SQLite file in this folder.

    Raises:
        RegistryError: If it does not answer.
    """
    from mlflow import MlflowClient

    uri = resolve(uri)
    if uri == "none":
        raise RegistryError("MLFLOW_TRACKING_URI: none tracks nothing, but a registry is needed; give --tracking-uri")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        found = MlflowClient(tracking_uri=uri, registry_uri=uri)
        found.search_experiments(max_results=1)
    except Exception as error:
        raise RegistryError(f"{uri}: no MLflow registry answers ({str(error).splitlines()[0]})") from error
    return found


def graphs(repository: Path, endpoint: str) -> dict[str, Path]:
    """The ONNX files of an endpoint's newest version, by the graphs' names in the repository."""
    found = {}
    for graph in protocol.GRAPHS[endpoint](protocol.GraphSizes(1, 1, 1, 1)):
        name = protocol.model_name(endpoint, graph)
        found[name] = repository / name / str(versions(repository / name)[-1]) / "model.onnx"
    return found


def content_of(files: dict[str, Path]) -> str:
    """A hash of some files, by which a model is known again."""
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        total.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def data_of(lists: Path, endpoint: str) -> str:
    """A hash of the test list that an endpoint's metrics are of.

    Raises:
        RegistryError: If it is not there.
    """
    path = lists / f"{TEST_LISTS[endpoint]}.json"
    if not path.is_file():
        raise RegistryError(f"{path}: no such test list")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def example(session: Any) -> dict[str, Any]:
    """Inputs that a graph takes: one row, and the same length wherever a dimension has the same name."""
    random = np.random.default_rng(0)
    feeds: dict[str, Any] = {}
    for tensor in session.get_inputs():
        shape = [1, *(size if isinstance(size, int) else DYNAMIC for size in tensor.shape[1:])]
        kind = TYPES[tensor.type]
        array = random.normal(size=shape) if kind is np.float32 else np.ones(shape)
        feeds[tensor.name] = array.astype(kind)
    return feeds


def _save(path: Path, target: Path, run: str, place: str) -> None:
    """Write a graph as an MLflow model that will lie at ``place`` among the artifacts of a run."""
    import mlflow.onnx
    import onnx
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    from albef.serving.session import open_session

    def schema(tensors: Any) -> Any:
        shapes = {t.name: tuple(size if isinstance(size, int) else -1 for size in t.shape) for t in tensors}
        return Schema([TensorSpec(np.dtype(TYPES[t.type]), shapes[t.name], t.name) for t in tensors])

    session = open_session(path)
    feeds = example(session)
    session.run(None, feeds)  # it is an example only if the graph takes it
    mlflow.onnx.save_model(
        onnx.load(str(path)),
        str(target),
        mlflow_model=Model(artifact_path=place, run_id=run),
        signature=ModelSignature(schema(session.get_inputs()), schema(session.get_outputs())),
        input_example=feeds,
        onnx_execution_providers=["CPUExecutionProvider"],
        pip_requirements=["onnxruntime", "numpy"],
        save_as_external_data=False,
    )


def register(
    repository: Path, evaluate: Path, lists: Path, uri: str | None = None, endpoints: Sequence[str] | None = None
) -> list[Version]:
    """Put the models of a repository into the registry, as challengers.

    A model that is the newest version already is not put in twice.

    Args:
        repository: As `albef repository` or `albef quantize` writes it.
        evaluate: Folder of the evaluations, ``TASK/metrics.json``.
        lists: The validated lists that they are of.
        endpoints: By default all of the repository.

    Raises:
        RegistryError: If metrics or lists are missing, or the registry does not answer.
    """
    endpoints = endpoints or [name for name in protocol.ENDPOINTS if (repository / name).is_dir()]
    if not endpoints:
        raise RegistryError(f"{repository}: no endpoint here, expected a folder written by `albef repository`")
    found = []
    registry = client(uri)
    for endpoint in endpoints:
        files, data = graphs(repository, endpoint), data_of(lists, endpoint)
        content, metrics = content_of(files), _metrics(evaluate / endpoint / "metrics.json")
        known = newest(registry, endpoint)
        if known is None or known.tags.get("content") != content:
            tags = {
                "content": content,
                "model_hash": onnxfile.metadata(next(iter(files.values())))[protocol.HASH_KEY],
                **origin(),
            }
            known = _put(registry, endpoint, files, metrics, tags)
        number = str(known.number)
        for key, value in {"test_data": data, **{f"{METRIC}{k}": repr(v) for k, v in metrics.items()}}.items():
            registry.set_model_version_tag(name_of(endpoint), number, key, value)
        registry.set_registered_model_alias(name_of(endpoint), CHALLENGER, number)
        found.append(version(registry, endpoint, known.number))
    return found


def _metrics(path: Path) -> dict[str, float]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RegistryError(f"{path}: expected the metrics that `albef evaluate` writes ({error})") from error
    return {key: float(value) for key, value in read.items() if isinstance(value, int | float)}


def _put(
    registry: Any, endpoint: str, files: dict[str, Path], metrics: dict[str, float], tags: dict[str, str]
) -> Version:
    identity = experiment_id(registry, registry.tracking_uri, EXPERIMENT)
    run = registry.create_run(identity, run_name=endpoint, tags={"stage": "register", "task": endpoint, **tags})
    status = "FAILED"
    try:
        for key, value in metrics.items():
            registry.log_metric(run.info.run_id, key, value)
        with tempfile.TemporaryDirectory(prefix="albef-registry-") as folder:
            for name, path in files.items():
                _save(path, Path(folder) / name, run.info.run_id, f"{endpoint}/{name}")
            registry.log_artifacts(run.info.run_id, folder, endpoint)
        if _registered(registry, endpoint) is None:
            registry.create_registered_model(name_of(endpoint), description=f"The graphs of the endpoint {endpoint}")
        source = f"{run.info.artifact_uri}/{endpoint}"
        made = registry.create_model_version(name_of(endpoint), source, run.info.run_id, tags=tags)
        status = "FINISHED"
    finally:
        registry.set_terminated(run.info.run_id, status)
    return version(registry, endpoint, int(made.version))


def version(registry: Any, endpoint: str, number: int) -> Version:
    """A version by its number."""
    found = registry.get_model_version(name_of(endpoint), str(number))
    tags = dict(found.tags)
    metrics = {key.removeprefix(METRIC): float(value) for key, value in tags.items() if key.startswith(METRIC)}
    return Version(endpoint, int(found.version), metrics, tags.get("test_data", ""), tags)


def newest(registry: Any, endpoint: str) -> Version | None:
    """The version that was put in last, or None."""
    found = registry.search_model_versions(f"name = '{name_of(endpoint)}'")
    return version(registry, endpoint, max(int(each.version) for each in found)) if found else None


def alias(registry: Any, endpoint: str, which: str) -> Version | None:
    """The version with an alias, or None."""
    model = _registered(registry, endpoint)
    number = model.aliases.get(which) if model else None
    return version(registry, endpoint, int(number)) if number else None


def _registered(registry: Any, endpoint: str) -> Any:
    """An endpoint's registered model, None where there is none: what else goes wrong must not look like that."""
    from mlflow.exceptions import MlflowException

    try:
        return registry.get_registered_model(name_of(endpoint))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise RegistryError(f"{name_of(endpoint)}: the registry does not tell: {error}") from error
        return None
