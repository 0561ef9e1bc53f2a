"""Versions and aliases of the models ``albef-TASK`` in MLflow's model registry.

An endpoint has the name of its task here. Endpoints that answer with the graphs of another task have no model. A
version holds each ONNX graph of the endpoint as an MLflow model with tensor signature and input example:
``mlflow.onnx.load_model("models:/albef-vqa@champion/vqa_decoder")``. It may also hold the checkpoint that the graphs
were exported from, with tokenizer and parameters: ``albef.load("models:/albef-vqa@champion")``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from albef.data.lists import file_of
from albef.io import file_hash
from albef.serving import protocol
from albef.serving.release import versions
from albef.serving.session import metadata, open_session
from albef.tasks import registry as tasks
from albef.tracking.mlflow_sync import experiment_id
from albef.tracking.origin import origin
from albef.tracking.tracker import resolve

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)
EXPERIMENT = "albef-release"
METRIC = "metric."
"""Prefix of the tags with test metrics."""
CHECKPOINT = "checkpoint"
"""Folder of the checkpoint in a version, and tag with the hash of its files."""
DYNAMIC = 4
"""Length of dynamic dimensions in input examples."""
_NAME = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>\d+))")
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


class RegistryError(ValueError):
    """A model that cannot be registered, found or promoted."""


@dataclass(frozen=True)
class Version:
    """A version of an endpoint's model.

    Args:
        metrics: Metrics on the test split.
        data: Hash of the test list of these metrics.
    """

    endpoint: str
    number: int
    metrics: dict[str, float]
    data: str
    tags: dict[str, str]


def registered_name(endpoint: str) -> str:
    """Return the name of an endpoint's registered model."""
    return f"albef-{endpoint}"


def client(uri: str | None = None) -> Any:
    """Return a registry client for ``uri``, ``MLFLOW_TRACKING_URI`` or ``mlflow.db``.

    Raises:
        RegistryError: If the registry cannot be reached.
    """
    from mlflow import MlflowClient

    uri = resolve(uri)
    if uri == "none":
        raise RegistryError("MLFLOW_TRACKING_URI is 'none', but a model registry is needed; give --tracking-uri")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        registry = MlflowClient(tracking_uri=uri, registry_uri=uri)
        registry.search_experiments(max_results=1)
    except Exception as error:
        raise RegistryError(f"{uri}: no MLflow registry answers ({str(error).splitlines()[0]})") from error
    return registry


def graphs(repository: Path, endpoint: str) -> dict[str, Path]:
    """Return the ONNX files of an endpoint's newest version, by model name."""
    files = {}
    for graph in tasks.graphs(endpoint):
        name = protocol.model_name(endpoint, graph)
        files[name] = repository / name / str(versions(repository / name)[-1]) / "model.onnx"
    return files


def content_hash(files: dict[str, Path]) -> str:
    """Return a hash of file names and contents, which identifies a model."""
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        total.update(name.encode() + bytes.fromhex(file_hash(path)))
    return total.hexdigest()


def hash_test_list(lists: Path, endpoint: str) -> str:
    """Return the hash of an endpoint's test list.

    Raises:
        RegistryError: If the list does not exist.
    """
    path = file_of(lists, str(tasks.spec(endpoint).test_list))
    if not path.is_file():
        raise RegistryError(f"{path}: test list does not exist; give the folder of validated lists")
    return file_hash(path)


def input_example(session: Any) -> dict[str, Any]:
    """Return one row of inputs, with length `DYNAMIC` in dynamic dimensions."""
    random = np.random.default_rng(0)
    feeds: dict[str, Any] = {}
    for tensor in session.get_inputs():
        shape = [1, *(size if isinstance(size, int) else DYNAMIC for size in tensor.shape[1:])]
        kind = TYPES[tensor.type]
        array = random.normal(size=shape) if kind is np.float32 else np.ones(shape)
        feeds[tensor.name] = array.astype(kind)
    return feeds


def _save(path: Path, target: Path, run: str, artifact_path: str) -> None:
    """Write a graph as an MLflow model for ``artifact_path`` of a run."""
    import mlflow.onnx
    import onnx
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(tensors: Any) -> Any:
        shapes = {t.name: tuple(size if isinstance(size, int) else -1 for size in t.shape) for t in tensors}
        return Schema([TensorSpec(np.dtype(TYPES[t.type]), shapes[t.name], t.name) for t in tensors])

    session = open_session(path)
    feeds = input_example(session)
    session.run(None, feeds)  # fails if the example does not fit the graph
    mlflow.onnx.save_model(
        onnx.load(str(path)),
        str(target),
        mlflow_model=Model(artifact_path=artifact_path, run_id=run),
        signature=ModelSignature(schema(session.get_inputs()), schema(session.get_outputs())),
        input_example=feeds,
        onnx_execution_providers=["CPUExecutionProvider"],
        pip_requirements=["onnxruntime", "numpy"],
        save_as_external_data=False,
    )


def _exported_hash(graphs: Mapping[str, Path]) -> str:
    """Return the hash of the model that graphs were exported from."""
    return metadata(open_session(next(iter(graphs.values()))))[protocol.HASH_KEY]


def checkpoint_files(repository: Path, endpoint: str, models: Path, params: Path) -> dict[str, Path]:
    """Return the files of an endpoint's checkpoint, by their name in a version.

    The checkpoint is the one that the graphs were exported from.

    Args:
        models: Folder of the training stages, ``TASK/model.pth``.

    Raises:
        RegistryError: If a file is missing, or the graphs were exported from another checkpoint.
    """
    from albef.export.graphs import model_hash
    from albef.weights import checkpoint

    served = repository / tasks.served_tasks()[endpoint]
    tokenizer = served / str(versions(served)[-1]) / protocol.TOKENIZER_FOLDER
    model = models / endpoint / "model.pth"
    files = {"model.pth": model, "tokenizer.json": tokenizer / "tokenizer.json", "params.yaml": params}
    for path in files.values():
        if not path.is_file():
            raise RegistryError(f"{path}: no such file, needed to register the checkpoint of {endpoint}")
    if model_hash(checkpoint.load(model)[0]) != _exported_hash(graphs(repository, endpoint)):
        raise RegistryError(f"{model}: not the model that {served} was exported from; export it again")
    return files


def download_checkpoint(name: str, folder: Path, uri: str | None = None) -> Path:
    """Download the checkpoint of a version and return its folder.

    Args:
        name: ``models:/NAME@ALIAS`` or ``models:/NAME/NUMBER``.

    Raises:
        RegistryError: If the registry cannot be reached, or has no such version with a checkpoint.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    registry = client(uri)
    match = _NAME.fullmatch(name)
    if match is None:
        raise RegistryError(f"{name}: expected models:/NAME@ALIAS or models:/NAME/NUMBER")
    try:
        if match["alias"]:
            entry = registry.get_model_version_by_alias(match["name"], match["alias"])
        else:
            entry = registry.get_model_version(match["name"], match["number"])
        # By the version's source: `models:/` would be resolved in the store that is set globally in MLflow.
        place = f"{entry.source}/{CHECKPOINT}"
        return Path(download_artifacts(place, dst_path=str(folder), tracking_uri=registry.tracking_uri))
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"{name}: no version with a checkpoint in {registry.tracking_uri}; register it with "
            f"`albef registry register --models` ({str(error).splitlines()[0]})"
        ) from error


def register(
    repository: Path,
    evaluate: Path,
    lists: Path,
    uri: str | None = None,
    endpoints: Sequence[str] | None = None,
    models: Path | None = None,
    params: Path = Path("params.yaml"),
    cards: Path | None = None,
) -> list[Version]:
    """Register the models of a repository as challengers.

    A model whose files equal the newest version creates no new version; only metrics and checkpoint are updated.

    Args:
        repository: Model repository written by `albef repository` or `albef quantize`.
        evaluate: Folder of the evaluations, ``TASK/metrics.json``.
        lists: Validated lists of these evaluations.
        endpoints: Endpoints to register; all of the repository by default.
        models: Folder of the training stages, to register checkpoints, too; see `checkpoint_files`.
        params: Parameters of the checkpoints.
        cards: Folder with ``model_card_TASK.md``, which become the descriptions of versions.

    Raises:
        RegistryError: If metrics or lists are missing, or the registry cannot be reached.
    """
    endpoints = endpoints or [task for task, name in tasks.served_tasks().items() if (repository / name).is_dir()]
    if not endpoints:
        raise RegistryError(f"{repository}: contains no endpoint, expected a folder written by `albef repository`")
    challengers = []
    registry = client(uri)
    for endpoint in endpoints:
        files, data = graphs(repository, endpoint), hash_test_list(lists, endpoint)
        checkpoint = checkpoint_files(repository, endpoint, models, params) if models else {}
        content, metrics = content_hash(files), _read_metrics(evaluate / endpoint / "metrics.json")
        current = newest(registry, endpoint)
        if current is None or current.tags.get("content") != content:
            tags = {
                "content": content,
                "model_hash": _exported_hash(files),
                **origin(),
            }
            current = _create_version(registry, endpoint, files, metrics, tags)
        if checkpoint and current.tags.get(CHECKPOINT) != content_hash(checkpoint):
            _log_checkpoint(registry, current, checkpoint)
        number = str(current.number)
        for key, value in {"test_data": data, **{f"{METRIC}{k}": repr(v) for k, v in metrics.items()}}.items():
            registry.set_model_version_tag(registered_name(endpoint), number, key, value)
        if cards is not None and (card := cards / f"model_card_{endpoint}.md").is_file():
            text = card.read_text(encoding="utf-8")
            registry.update_model_version(registered_name(endpoint), number, description=text)
        registry.set_registered_model_alias(registered_name(endpoint), CHALLENGER, number)
        challengers.append(version(registry, endpoint, current.number))
    return challengers


def _log_checkpoint(registry: Any, current: Version, files: dict[str, Path]) -> None:
    name, number = registered_name(current.endpoint), str(current.number)
    run = registry.get_model_version(name, number).run_id
    with tempfile.TemporaryDirectory(prefix="albef-registry-") as folder:
        for file, path in files.items():
            shutil.copyfile(path, Path(folder) / file)
        registry.log_artifacts(run, folder, f"{current.endpoint}/{CHECKPOINT}")
    registry.set_model_version_tag(name, number, CHECKPOINT, content_hash(files))


def _read_metrics(path: Path) -> dict[str, float]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RegistryError(f"{path}: cannot read the metrics, run `albef evaluate` first ({error})") from error
    return {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}


def _create_version(
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
        if _registered_model(registry, endpoint) is None:
            registry.create_registered_model(
                registered_name(endpoint), description=f"ONNX graphs of the endpoint {endpoint}"
            )
        source = f"{run.info.artifact_uri}/{endpoint}"
        created = registry.create_model_version(registered_name(endpoint), source, run.info.run_id, tags=tags)
        status = "FINISHED"
    finally:
        registry.set_terminated(run.info.run_id, status)
    return version(registry, endpoint, int(created.version))


def version(registry: Any, endpoint: str, number: int) -> Version:
    """Return a version by its number."""
    entry = registry.get_model_version(registered_name(endpoint), str(number))
    tags = dict(entry.tags)
    metrics = {key.removeprefix(METRIC): float(value) for key, value in tags.items() if key.startswith(METRIC)}
    return Version(endpoint, int(entry.version), metrics, tags.get("test_data", ""), tags)


def newest(registry: Any, endpoint: str) -> Version | None:
    """Return the version registered last; None if there is none."""
    entries = registry.search_model_versions(f"name = '{registered_name(endpoint)}'")
    return version(registry, endpoint, max(int(entry.version) for entry in entries)) if entries else None


def by_alias(registry: Any, endpoint: str, alias: str) -> Version | None:
    """Return the version with an alias; None if there is none."""
    model = _registered_model(registry, endpoint)
    number = model.aliases.get(alias) if model else None
    return version(registry, endpoint, int(number)) if number else None


def _registered_model(registry: Any, endpoint: str) -> Any:
    """Return an endpoint's registered model, or None if it does not exist.

    Raises:
        RegistryError: For any other failure, which must not be mistaken for a missing model.
    """
    from mlflow.exceptions import MlflowException

    try:
        return registry.get_registered_model(registered_name(endpoint))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise RegistryError(f"{registered_name(endpoint)}: cannot query the registry: {error}") from error
        return None
